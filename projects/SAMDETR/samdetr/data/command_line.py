"""Command-line options for one's own data, and the config keys that they set.

The class names are read from the files; data sets, number of classes and evaluator of the config
follow from them. `load_own_dataset`, which the config then calls, registers the data in every
process and in later runs.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import yaml
from detectron2.config import LazyCall, LazyConfig
from detectron2.utils.registry import locate
from omegaconf import DictConfig, OmegaConf

from ..errors import ConfigError
from ..evaluation import DetectionEvaluator
from .own import CocoFiles, VocFolder, load_own_dataset

PARTS = {"train": "train", "val": "test"}  # names of the options, and keys of `dataloader`
EXPECTED = "expected json and images, or voc and split"


class OwnDataset(NamedTuple):
    """Files and class names of a data set, in a form that can be sent to other processes."""

    source: CocoFiles | VocFolder
    classes: list[str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that name files and folders."""
    group = parser.add_argument_group(
        "own data",
        "Data to train and to evaluate on, instead of the config's. The number of classes follows "
        "from it and is kept in the run's config.yaml. See docs/own_data.md.",
    )
    for part, purpose in (("train", "train"), ("val", "evaluate")):
        group.add_argument(
            f"--{part}-json", metavar="FILE", help=f"annotations to {purpose} on, in COCO format"
        )
        group.add_argument(f"--{part}-images", metavar="DIR", help="folder of their images")
        group.add_argument(
            f"--{part}-voc",
            nargs=2,
            metavar=("DIR", "SPLIT"),
            help=f"or a Pascal VOC folder and the list in ImageSets/Main/ to {purpose} on",
        )
    group.add_argument(
        "--data",
        metavar="FILE",
        help="or a .yaml or .py file with `train` and `val`, each with `json` and `images` or with "
        "`voc` and `split`; paths are relative to its folder",
    )


def own_datasets(
    args: argparse.Namespace, classes: Sequence[str] | None = None
) -> dict[str, OwnDataset]:
    """Read the class names of the data that the command line names.

    Args:
        args: with the options of `add_arguments`.
        classes: those of the config, which data for evaluation alone must have.

    Returns:
        "train" and "val", or "val" alone, or nothing.

    Raises:
        ConfigError: if options are missing or contradict each other.
        DataError: if a file cannot be read, or the two parts differ in their classes.
    """
    entries, folder = _entries(args), ""
    if args.data:
        if entries:
            raise ConfigError(f"--data {args.data} excludes the options --train-... and --val-...")
        entries, folder = _read(args.data), os.path.dirname(args.data)
    if "train" in entries and "val" not in entries:
        raise ConfigError("there is own data to train on, but none to evaluate on: --val-json FILE")
    datasets = {}
    for part in (part for part in PARTS if part in entries):
        what = f"--data {args.data}: {part}" if args.data else f"own data by --{part}-..."
        source = _source(entries[part], folder, what)
        classes = source.class_names(None if part == "train" else classes)
        datasets[part] = OwnDataset(source, classes)
    return datasets


def use(cfg: DictConfig, datasets: Mapping[str, OwnDataset]) -> None:
    """Set the data sets, the number of classes and the evaluator of a config."""
    for part, (source, classes) in datasets.items():
        loader = cfg.dataloader[PARTS[part]]
        kept = cast(dict[str, Any], OmegaConf.to_container(loader.dataset, resolve=False))
        # The key that the data set takes its number of classes from, by default the model's.
        reference = re.fullmatch(r"\$\{([\w.]+)\}", str(kept.get("num_classes")))
        key = reference[1] if reference else "model.num_classes"
        loader.dataset = LazyCall(load_own_dataset)(
            names=f"own_{part}",
            source=LazyCall(type(source))(**dataclasses.asdict(source)),
            classes=classes,
            filter_empty=kept.get("filter_empty", False),
            num_classes=f"${{{key}}}",
        )
        OmegaConf.update(cfg, key, len(classes))
    if datasets and not _evaluates_any(cfg.dataloader.evaluator):
        cfg.dataloader.evaluator = LazyCall(DetectionEvaluator)(
            dataset_name="${..test.dataset.names}", output_dir="${train.output_dir}/inference"
        )


def _evaluates_any(node: DictConfig) -> bool:
    """Return whether an evaluator works for any data set, unlike those of Pascal VOC and LVIS."""
    target = node.get("_target_")
    target = locate(target) if isinstance(target, str) else target
    return isinstance(target, type) and issubclass(target, DetectionEvaluator)


def _entries(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return what the options name in the form of `_read`."""
    entries = {}
    for part in PARTS:
        entry = {key: getattr(args, f"{part}_{key}") for key in ("json", "images")}
        entry["voc"], entry["split"] = getattr(args, f"{part}_voc") or (None, None)
        if entry := {key: value for key, value in entry.items() if value is not None}:
            entries[part] = entry
    return entries


def _read(path: str) -> dict[str, dict[str, Any]]:
    try:
        # LazyConfig's loader for YAML would call what the file names.
        python = path.endswith(".py")
        content = LazyConfig.load(path) if python else yaml.safe_load(Path(path).read_text())
    except (SyntaxError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"--data {path}: {error}") from error
    if OmegaConf.is_config(content):
        content = OmegaConf.to_container(content)
    if not isinstance(content, dict) or not set(content) <= set(PARTS) or "val" not in content:
        raise ConfigError(f"--data {path}: expected `train` and `val`, or `val` alone")
    return content


def _source(entry: Any, folder: str, what: str) -> CocoFiles | VocFolder:
    def absolute(path: str) -> str:
        return path if "://" in path else os.path.abspath(os.path.join(folder, path))

    match entry:
        case {"json": str(json), "images": str(images), **others} if not others:
            return CocoFiles(absolute(json), absolute(images))
        case {"voc": str(voc), "split": split, **others} if not others:
            return VocFolder(absolute(voc), str(split))
    raise ConfigError(f"{what} has {entry}, {EXPECTED}")
