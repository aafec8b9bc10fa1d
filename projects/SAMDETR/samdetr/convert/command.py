"""What tools/convert_checkpoint.py does: from file to file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch

from ..checkpoint import TOLERATED, TRAINING_ONLY, Difference
from ..engine import load_config
from ..engine.config import build
from .classes import coco80, coco91
from .describe import describe
from .files import AUTHOR, Checkpoint, check_output, half_precision, read_checkpoint, save_model
from .hf import check_model_type, weights_file
from .official import samdetr_to_official
from .rules import ConversionError, StateDict
from .sources import SOURCES, converted, recognise

AUTO = "auto"


class Output(NamedTuple):
    """How to write.

    Fields:
        path: the file.
        file_format: one of `files.FORMATS`; "" goes by the suffix of `path`.
        author: who made the weights; "" for whoever that is known to be.
        matching_heuristics: if Detectron2 shall match the names by their endings.
        half: if half precision is enough.
    """

    path: str | Path
    file_format: str = ""
    author: str = ""
    matching_heuristics: bool = False
    half: bool = False


def convert_file(
    source: str,
    path: str | Path,
    output: Output,
    *,
    select_coco80: bool = False,
    config_file: str = "",
    trusted: bool = False,
    trusted_config: bool = False,
) -> str:
    """Convert a file to our names or, if it is a backbone, to Detectron2's.

    Args:
        source: what it is, a name in `SOURCES`; `AUTO` finds out.
        path: a file, or a folder of the package transformers.
        output: where and how to write.
        select_coco80: if of 91 class rows those of COCO's 80 classes are wanted.
        config_file: of the model that the weights have to fit; "" for any.
        trusted: if a `.pkl` may be read.
        trusted_config: if the config may call anything, where it is in YAML.

    Returns:
        What the output is.

    Raises:
        ConversionError, ConfigError, OSError, ImportError: if that cannot be done.
    """
    check_output(Path(output.path), output.file_format)
    found = read(source, Path(path), trusted)
    with naming(path):
        source = recognise(found.weights) if source == AUTO else source
        weights = converted(found.weights, source)
        weights = coco80(weights) if select_coco80 else weights
    if config_file:
        check_fit(weights, config_file, path, trusted_config)
    kind = SOURCES[source]
    return write(
        weights,
        output._replace(
            author=output.author or kind.author or AUTHOR,
            matching_heuristics=output.matching_heuristics
            or kind.prefixless
            or found.matching_heuristics,
        ),
        describe(weights),
    )


def export_official(
    path: str | Path, output: Output, *, spread_coco91: bool = False, trusted: bool = False
) -> str:
    """Convert one of ours to the official SAM-DETR's names.

    Args:
        path: the file.
        output: where and how to write.
        spread_coco91: if the rows of COCO's 80 classes shall become those of its 91 ids.
        trusted: if a `.pkl` may be read.

    Returns, and raises: as `convert_file`.
    """
    check_output(Path(output.path), output.file_format)
    weights = read("ours", Path(path), trusted).weights
    with naming(path):
        weights = converted(weights, "ours")
        weights = coco91(weights) if spread_coco91 else weights
        official = samdetr_to_official(weights)
    return write(official, output, f"an official SAM-DETR from {describe(weights)}")


def describe_file(path: str | Path, trusted: bool = False) -> str:
    """What a file is; raises as `convert_file`."""
    found = read(AUTO, Path(path), trusted)
    with naming(path):
        source = recognise(found.weights)
        weights = converted(found.weights, source)
    words = [SOURCES[source].what, describe(weights)]
    if "dilation" in found.arguments:
        words.append(f"trained with{'' if found.arguments['dilation'] else 'out'} dilation (DC5)")
    return f"{source}: {'; '.join(words)}"


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Errors about weights say in which file they are."""
    try:
        yield
    except ConversionError as error:
        raise ConversionError(f"{path}: {error}") from error


def read(source: str, path: Path, trusted: bool) -> Checkpoint:
    """Read a file or, if the source is in the package transformers, a folder."""
    if source != AUTO and SOURCES[source].model_type:
        check_model_type(path, SOURCES[source].model_type)
    return read_checkpoint(weights_file(path), trusted)


def write(weights: StateDict, output: Output, description: str) -> str:
    """Write as asked for; returns what was written."""
    if output.half:
        weights = half_precision(weights)
    save_model(
        weights,
        output.path,
        file_format=output.file_format,
        author=output.author or AUTHOR,
        matching_heuristics=output.matching_heuristics,
        description=description,
    )
    return f"{output.path}: {len(weights)} tensors, {description}"


def check_fit(
    weights: StateDict, config_file: str, path: str | Path, trusted_config: bool = False
) -> None:
    """Compare weights with the model of a config.

    Raises:
        ConversionError: if they do not fit; it says what either is.
        ConfigError: if the config cannot be loaded.
    """
    cfg = load_config(config_file, trusted=trusted_config)
    with torch.device("meta"):  # shapes are enough
        model = build(cfg.model, "model").state_dict()
    shared = [name for name in model if name in weights]
    difference = Difference(
        loaded=shared,
        missing=[x for x in model if x not in weights and not x.endswith(TOLERATED)],
        unexpected=[
            x
            for x in weights
            if x not in model and not x.endswith(TOLERATED) and not x.startswith(TRAINING_ONLY)
        ],
        shapes=[
            (name, tuple(weights[name].shape), tuple(model[name].shape))
            for name in shared
            if weights[name].shape != model[name].shape
        ],
    )
    if difference:
        raise ConversionError(
            f"{path} is {describe(weights)}, and {config_file} is {describe(model)}: {difference}"
        )
