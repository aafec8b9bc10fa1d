"""Command-line options for one's own data, and the config keys that they set.

The class names are read from the files; data sets, number of classes and evaluator of the config
follow from them. `load_own_dataset`, which the config then calls, registers the data in every
process and in later runs.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from detectron2.config import LazyCall
from detectron2.utils.registry import locate
from omegaconf import DictConfig, OmegaConf

from ..errors import ConfigError, DataError
from ..evaluation import DetectionEvaluator
from .annotations import Annotations, absolute
from .datasets import indexed
from .own import CocoFiles, Parts, Source, VocFolder, load_own_dataset, read_sources, recognise

PARTS = {"train": "train", "val": "test"}  # names of the options, and keys of `dataloader`


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that name files and folders."""
    group = parser.add_argument_group(
        "own data",
        "Data to train and to evaluate on, instead of the config's. The number of classes follows "
        "from it and is kept in the run's config.yaml. See docs/own_data.md.",
    )
    for part, purpose in (("train", "train"), ("val", "evaluate")):
        options: tuple[tuple[str, Any, Any, str], ...] = (
            ("json", "+", "FILE", f"annotations to {purpose} on, in COCO format"),
            ("images", "+", "DIR", "folder of their images, one for all files or one for each"),
            ("voc", 2, ("DIR", "SPLIT"), f"a Pascal VOC folder and its list to {purpose} on"),
        )
        for name, number, metavar, text in options:
            group.add_argument(f"--{part}-{name}", nargs=number, metavar=metavar, help=text)
    group.add_argument(
        "--data",
        metavar="WHAT",
        help="or a folder or file of a data set, recognised by its content: YOLO's data.yaml, a "
        "Roboflow export, COCO's or Pascal VOC's layout, an image folder of Hugging Face, or a "
        ".yaml or .py file with `train` and `val`, each with `json` and `images` or with `voc` and "
        "`split`",
    )
    group.add_argument(
        "--test",
        nargs="+",
        default=[],
        metavar="WHAT",
        help="further data sets to evaluate on, recognised as --data is; of each the part for "
        "evaluation, under the name of its folder, as in NAME/bbox/AP",
    )


def own_datasets(
    args: argparse.Namespace, classes: Sequence[str] | None = None
) -> dict[str, DictConfig]:
    """Read the data that the command line names; return their node of the config, by part.

    Args:
        args: with the options of `add_arguments`.
        classes: those of the config, which data for evaluation alone must have.

    Returns:
        "train" and "val", or one of them, or nothing; and the data sets of --test by name.

    Raises:
        ConfigError: if options are missing or contradict each other.
        DataError: if a file cannot be read, or an object to evaluate on has a class that the
            training data lack.
    """
    parts = _named_parts(args)
    if args.data:
        if parts:
            raise ConfigError(f"--data {args.data} excludes the options --train-... and --val-...")
        parts = recognise(args.data)
    parts, tests = {part: parts[part] for part in PARTS if part in parts}, _tests(args.test)
    if tests and not parts and classes is None:
        raise ConfigError("--test needs --data, or the config.yaml of a training on own data")
    if tests and "train" in parts and "val" not in parts:
        parts["val"] = tests.pop(next(iter(tests)))
    datasets = {}
    for part, sources in (parts | tests).items():
        found = read_sources(sources)
        if part == "train" or classes is None:
            classes = list(found.names.values())
        if part == "train" and not any(record["annotations"] for record in found.records):
            raise DataError(f"{sources[0]} has no box to train on: all of its images are empty")
        nodes = [LazyCall(type(x))(**dataclasses.asdict(x)) for x in sources]
        datasets[part] = LazyCall(load_own_dataset)(
            names=f"own_{part}",
            source=nodes[0] if len(nodes) == 1 else nodes,
            classes=list(classes),
            category_ids=_category_ids(found, classes),
        )
        indexed(found, classes, sources[0])
    return datasets


def _tests(wanted: Sequence[str]) -> Parts:
    """Return the sources to evaluate on of further data sets, by the names of their folders."""
    tests: Parts = {}
    for what in wanted:
        path = Path(os.path.abspath(what))
        name = path.parent.name if path.is_file() else path.name
        if name in (*PARTS, *tests):
            raise ConfigError(
                f"--test {what}: the name {name} is taken, another folder name is needed"
            )
        parts = recognise(what)
        tests[name] = parts.get("val") or parts["train"]
    return tests


def _category_ids(found: Annotations, classes: Sequence[str]) -> list[Any]:
    """Return the data set's own id of each class, or new ones where it has none."""
    by_name = {name: category for category, name in found.names.items()}
    if not all(isinstance(x, int) for x in found.names):
        return list(range(len(classes)))
    unused = itertools.count(max(found.names, default=-1) + 1)
    return [by_name[name] if name in by_name else next(unused) for name in classes]


def use(cfg: DictConfig, datasets: Mapping[str, DictConfig]) -> None:
    """Set the data sets, the number of classes and the evaluator of a config.

    Without data to evaluate on, the evaluator is None.
    """
    for part, dataset in datasets.items():
        loader = cfg.dataloader[PARTS.get(part, "test")]
        kept = cast(dict[str, Any], OmegaConf.to_container(loader.dataset, resolve=False))
        # The key that the data set takes its number of classes from, by default the model's.
        reference = re.fullmatch(r"\$\{([\w.]+)\}", str(kept.get("num_classes")))
        key = reference[1] if reference else "model.num_classes"
        settings = {"filter_empty": kept.get("filter_empty", False), "num_classes": f"${{{key}}}"}
        if part in PARTS:  # not by an update, which would keep keys of another source
            loader.dataset = OmegaConf.merge(dataset, settings)
        else:
            tests = cfg.dataloader.get("more_tests") or {}
            cfg.dataloader.more_tests = {**tests, part: OmegaConf.merge(dataset, settings)}
        OmegaConf.update(cfg, key, len(dataset.classes))
    if "train" in datasets and "val" not in datasets:
        cfg.dataloader.test.dataset = cfg.dataloader.train.dataset
        cfg.dataloader.evaluator = None
    elif datasets and not _evaluates_any(cfg.dataloader.evaluator):
        cfg.dataloader.evaluator = LazyCall(DetectionEvaluator)(
            dataset_name="${..test.dataset.names}", output_dir="${train.output_dir}/inference"
        )


def _evaluates_any(node: DictConfig | None) -> bool:
    """Return whether an evaluator works for any data set, unlike those of Pascal VOC and LVIS."""
    target = node.get("_target_") if node else None
    target = locate(target) if isinstance(target, str) else target
    return isinstance(target, type) and issubclass(target, DetectionEvaluator)


def _named_parts(args: argparse.Namespace) -> Parts:
    """Return the sources that the options name."""
    parts: Parts = {}
    for part in PARTS:
        files, folders, voc = (
            getattr(args, f"{part}_{key}") or [] for key in ("json", "images", "voc")
        )
        if len(folders) == 1 and files:
            folders = folders * len(files)
        if len(folders) != len(files):
            raise ConfigError(
                f"--{part}-json {files} and --{part}-images {folders}: expected files and one "
                "folder, or a folder for each"
            )
        for folder in folders:
            if "://" not in folder and not os.path.isdir(folder):
                raise DataError(f"--{part}-images {folder} is not a folder")
        sources: list[Source] = [CocoFiles(*map(absolute, pair)) for pair in zip(files, folders)]
        sources += [VocFolder(absolute(voc[0]), voc[1])] if voc else []
        if sources:
            parts[part] = sources
    return parts
