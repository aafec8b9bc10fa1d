#!/usr/bin/env python
"""Convert a file of weights.

From other implementations to this one, from this one to the official SAM-DETR's names, and from
one format to another: `.pth`, the `.pkl` of Detectron2's model zoo, or `.safetensors`.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import instantiate
from torch import Tensor

from samdetr.checkpoint import HEURISTICS, Difference, load_file
from samdetr.convert import (
    ConversionError,
    coco80,
    coco91,
    describe,
    half_precision,
    recognise,
    samdetr_to_official,
    save_model,
)
from samdetr.convert.files import FORMATS, SOURCES, check_format, converted
from samdetr.engine import add_trust_option, load_config
from samdetr.errors import refusing
from samdetr.modeling.layers import meta_device

AUTO, DETECT, HALF, TO_OFFICIAL = "auto", "detect", "half", "to-official"
OURS = (HALF, TO_OFFICIAL)  # commands whose input is one of ours
HF_FILES = ("model.safetensors", "pytorch_model.bin")  # of a folder of `transformers`
EPILOG = """
examples:
  tools/convert_checkpoint.py detect checkpoint.pth
  tools/convert_checkpoint.py official checkpoint.pth sam_detr.pth --coco80 \\
      --config-file configs/coco/sam_detr_r50_smca_12ep.py
  tools/convert_checkpoint.py torchvision resnet50.pth R-50-torchvision.pkl
  tools/convert_checkpoint.py ours model_final.pth sam_detr_zoo.pkl --author "me"
  tools/convert_checkpoint.py to-official model_final.pth official.pth --coco91
"""


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="source", required=True, metavar="SOURCE")
    helps = {
        AUTO: "the kind that the names of the weights show; a DETR is converted as by 'detr'",
        **{name: ", ".join(filter(None, (x.what, x.remark))) for name, x in SOURCES.items()},
        HALF: "one of ours, in half precision",
        DETECT: "describe a file and write nothing",
        TO_OFFICIAL: "a SAM-DETR of ours, under the official names",
    }
    for name, text in helps.items():
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("input", help="file or folder to read")
        # From when reading a `.pkl` could run code.
        command.add_argument("--trusted", action="store_true", help=argparse.SUPPRESS)
        command.set_defaults(coco80=False, coco91=False, config_file="")
        if name != DETECT:
            add_output_options(command)
        if name == TO_OFFICIAL:
            text = "give a head of COCO's 80 classes the official 91 rows; the new ones never fire"
            command.add_argument("--coco91", action="store_true", help=text)
        elif name != DETECT:
            add_options_to_ours(command)
    return parser


def add_output_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("output", help="file to write; it appears once it is complete")
    text = "format of OUTPUT (default: by its suffix)"
    parser.add_argument("--format", choices=FORMATS, default="", help=text)
    parser.add_argument("--half", action="store_true", help="store half precision")
    parser.set_defaults(author="", matching_heuristics=False)


def add_options_to_ours(parser: argparse.ArgumentParser) -> None:
    text = "keep Detectron2's 80 classes of the 91 COCO ids, for model.num_classes=80"
    parser.add_argument("--coco80", action="store_true", help=text)
    text = "fail unless the weights fit the model of this config"
    parser.add_argument("--config-file", default="", metavar="FILE", help=text)
    add_trust_option(parser)
    text = "`__author__` of the file (default: samdetr or torchvision)"
    parser.add_argument("--author", default="", help=text)
    text = "let Detectron2 match names by their suffixes (default: for backbones alone)"
    parser.add_argument("--matching-heuristics", action="store_true", help=text)


def detect(options: argparse.Namespace) -> str:
    """Return a description of the input."""
    content = read(options.input)
    source = recognise(content["model"])
    weights = converted(content["model"], source)
    words = [SOURCES[source].what, describe(weights)]
    dilation = getattr(content.get("args"), "dilation", None)
    if dilation is not None:  # from the command line that DETR and its descendants store
        words.append(f"trained with{'' if dilation else 'out'} dilation (DC5)")
    return f"{source}: {'; '.join(words)}"


def convert(options: argparse.Namespace) -> str:
    """Convert the input to the output; returns a description of the output."""
    check_format(options.output, options.format)
    content = read(options.input)
    source = "ours" if options.source in OURS else options.source
    source = recognise(content["model"]) if source == AUTO else source
    weights = converted(content["model"], source)
    weights = coco80(weights) if options.coco80 else weights
    weights = coco91(weights) if options.coco91 else weights
    if options.config_file:
        check_fit(weights, options.config_file, options.trusted_config)
    description = describe(weights)
    if options.source == TO_OFFICIAL:
        weights = samdetr_to_official(weights)
        description = f"an official SAM-DETR from {description}"
    kind = SOURCES[source]
    save_model(
        half_precision(weights) if options.half or options.source == HALF else weights,
        options.output,
        file_format=options.format,
        author=options.author or kind.author,
        matching_heuristics=options.matching_heuristics
        or kind.prefixless
        or content.get(HEURISTICS, False),
        description=description,
    )
    return f"{options.output}: {len(weights)} tensors, {description}"


def read(path: str) -> dict[str, Any]:
    """Read a checkpoint, without a prefix of all names if that makes its kind a known one."""
    content = load_file(weights_file(Path(path)))
    weights = content["model"]
    prefix = os.path.commonprefix(list(weights)).rpartition(".")[0] + "."
    bare = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    fits = [any(x.fits(names) for x in SOURCES.values()) for names in (weights, bare)]
    return {**content, "model": bare if fits == [False, True] else weights}


def weights_file(path: Path) -> Path:
    """Return the path itself or, of a folder of `transformers`, the file of the weights."""
    if not path.is_dir():
        return path
    files = [path / name for name in HF_FILES if (path / name).is_file()]
    if not files:
        raise FileNotFoundError(f"{path} has no {' or '.join(HF_FILES)}")
    return files[0]


def check_fit(weights: Mapping[str, Tensor], config_file: str, trusted: bool) -> None:
    """Raise ConversionError, with a description of both, unless weights fit a config's model."""
    cfg = load_config(config_file, trusted=trusted)
    with meta_device():
        model: dict[str, Any] = instantiate(cfg.model).state_dict()
    missing = [x for x in model if x not in weights]
    unexpected = [x for x in weights if x not in model]
    shapes = [
        (name, tuple(weights[name].shape), tuple(x.shape))
        for name, x in model.items()
        if name in weights and weights[name].shape != x.shape
    ]
    if difference := Difference.of(list(model), (missing, unexpected, shapes)):
        raise ConversionError(
            f"it is {describe(weights)}, and {config_file} is {describe(model)}: {difference}"
        )


@refusing("convert_checkpoint.py")
def main(arguments: Sequence[str] | None = None) -> None:
    parser = argument_parser()
    options = parser.parse_args(arguments)
    try:
        print(detect(options) if options.source == DETECT else convert(options))
    except ConversionError as error:
        raise ConversionError(f"{options.input}: {error}") from error


if __name__ == "__main__":
    main()
