"""Own data in one line: from files on the command line to keys of the config.

A file or folder is checked, its classes are found, and the config's data sets, its number of
classes and its evaluator are set by them. Nothing is registered here: `load_own_dataset`, which the
config then names, does that in every process and in later runs.
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

from ..data import CocoFiles, VocFolder, load_own_dataset
from ..data.errors import shown
from ..errors import ConfigError
from ..evaluation import DetectionEvaluator

PARTS = {"train": "train", "val": "test"}  # what people call it, and its key in `dataloader`
OwnSource = CocoFiles | VocFolder
KINDS: dict[tuple[str, str], type[OwnSource]] = {
    ("json", "images"): CocoFiles,
    ("voc", "split"): VocFolder,
}
EXPECTED = "expected json and images, or voc and split"


class OwnDataset(NamedTuple):
    """A checked data set, in a form that other processes can be told."""

    source: OwnSource
    classes: list[str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that name files and folders."""
    group = parser.add_argument_group(
        "own data",
        "What to train and to evaluate on, in place of the config's. The classes, and their number "
        "in the model, follow from it and are kept in the run's config.yaml. See docs/own_data.md.",
    )
    for part, purpose in (("train", "train"), ("val", "evaluate")):
        group.add_argument(
            f"--{part}-json", metavar="FILE", help=f"annotations to {purpose} on, in COCO format"
        )
        group.add_argument(f"--{part}-images", metavar="DIR", help="the folder of their images")
        group.add_argument(
            f"--{part}-voc",
            nargs=2,
            metavar=("DIR", "SPLIT"),
            help=f"or a folder laid out as Pascal VOC's, and the list in ImageSets/Main/ to "
            f"{purpose} on",
        )
    group.add_argument(
        "--data",
        metavar="FILE",
        help="or a .yaml or .py file that has `train` and `val`, each with `json` and `images` or "
        "with `voc` and `split`; paths start from its folder",
    )


def own_datasets(
    args: argparse.Namespace, classes: Sequence[str] | None = None
) -> dict[str, OwnDataset]:
    """Check what the command line names.

    Args:
        args: with the options of `add_arguments`.
        classes: those of the config, for a set to evaluate on alone.

    Returns:
        "train" and "val", or "val" alone, or nothing.

    Raises:
        ConfigError: if options lack each other or contradict each other.
        DataError: if a file or an entry of it is wrong, or if the two have other classes.
    """
    entries, folder = _entries(args), ""
    if args.data:
        if entries:
            raise ConfigError(
                f"--data {args.data} and options of --train or --val exclude each other"
            )
        entries, folder = _read(args.data), os.path.dirname(args.data)
    if "train" in entries and "val" not in entries:
        raise ConfigError("there is own data to train on, but none to evaluate on: --val-json FILE")
    datasets = {}
    for part in (part for part in PARTS if part in entries):
        what = f"--data {args.data}: {part}" if args.data else f"own data by --{part}-..."
        source = _source(entries[part], folder, what)
        classes = source.check(None if part == "train" else classes)
        datasets[part] = OwnDataset(source, classes)
    return datasets


def use(cfg: DictConfig, datasets: Mapping[str, OwnDataset]) -> None:
    """Set the data sets, the number of classes and the evaluator of a config."""
    for part, (source, classes) in datasets.items():
        loader = cfg.dataloader[PARTS[part]]
        kept = cast(dict[str, Any], OmegaConf.to_container(loader.dataset, resolve=False))
        key = _key(str(kept.get("num_classes")))
        loader.dataset = LazyCall(load_own_dataset)(
            names=f"own_{part}",
            source=LazyCall(type(source))(**dataclasses.asdict(source)),
            classes=classes,
            filter_empty=kept.get("filter_empty", False),
            num_classes=f"${{{key}}}",
        )
        OmegaConf.update(cfg, key, len(classes))
    if datasets and not _is_general(cfg.dataloader.evaluator):
        cfg.dataloader.evaluator = LazyCall(DetectionEvaluator)(
            dataset_name="${..test.dataset.names}", output_dir="${train.output_dir}/inference"
        )


def _entries(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """What the options name, as `_read` has it from a file."""
    entries = {}
    for part in PARTS:
        entry = {x: getattr(args, f"{part}_{x}") for x in ("json", "images")}
        entry["voc"], entry["split"] = getattr(args, f"{part}_voc") or (None, None)
        if entry := {key: value for key, value in entry.items() if value is not None}:
            entries[part] = entry
    return entries


def _read(path: str) -> dict[str, dict[str, Any]]:
    if not os.path.isfile(path) or not path.endswith((".py", ".yaml", ".yml")):
        raise ConfigError(f"--data {path!r} is not a .py or .yaml file")
    try:
        # Not LazyConfig's loader for YAML, which would run what the file says.
        python = path.endswith(".py")
        content = LazyConfig.load(path) if python else yaml.safe_load(Path(path).read_text())
    except (SyntaxError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(f"--data {path}: {' '.join(str(error).split())}") from error
    if OmegaConf.is_config(content):
        content = OmegaConf.to_container(content)
    if not isinstance(content, dict) or not set(content) <= set(PARTS) or "val" not in content:
        raise ConfigError(f"--data {path}: expected `train` and `val`, or `val` alone")
    for part, entry in content.items():
        if not isinstance(entry, dict):
            raise ConfigError(f"--data {path}: {part} is {shown(entry)}, {EXPECTED}")
    return content


def _source(entry: Mapping[str, Any], folder: str, what: str) -> OwnSource:
    for keys, kind in KINDS.items():
        if set(entry) == set(keys) and all(isinstance(value, str) for value in entry.values()):
            place, second = (entry[key] for key in keys)
            second = second if keys[1] == "split" else _absolute(second, folder)
            return kind(_absolute(place, folder), second)
    raise ConfigError(f"{what} has {shown(dict(entry))}, {EXPECTED}")


def _absolute(path: str, folder: str) -> str:
    return path if "://" in path else os.path.abspath(os.path.join(folder, path))


def _key(number: str) -> str:
    """The key that `num_classes` of a data set refers to, by default the model's."""
    reference = re.fullmatch(r"\$\{([\w.]+)\}", number)
    return reference[1] if reference else "model.num_classes"


def _is_general(node: DictConfig) -> bool:
    """If an evaluator is for any data set, not for Pascal VOC or LVIS."""
    target = node.get("_target_")
    target = locate(target) if isinstance(target, str) else target
    return isinstance(target, type) and issubclass(target, DetectionEvaluator)
