#!/usr/bin/env python
"""Convert weights from file to file.

From other implementations to this one, from this one to the official SAM-DETR's names, and from
one format to another: `.pth`, the `.pkl` of Detectron2's model zoo, or `.safetensors`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from samdetr.convert.command import AUTO, Output, convert_file, describe_file, export_official
from samdetr.convert.files import FORMATS
from samdetr.convert.sources import SOURCES
from samdetr.engine import add_trust_option
from samdetr.errors import refusing

DETECT, HALF, TO_OFFICIAL = "detect", "half", "to-official"
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
        AUTO: "whatever the names of the weights show; of a DETR what 'detr' takes",
        **{name: ", ".join(filter(None, (x.what, x.remark))) for name, x in SOURCES.items()},
        HALF: "one of ours, in half precision",
    }
    for name, text in helps.items():
        add_options_to_ours(commands.add_parser(name, help=text, description=text))
    text = "say what a file is, and write nothing"
    add_input(commands.add_parser(DETECT, help=text, description=text))
    text = "a SAM-DETR of ours, under the official names"
    official = commands.add_parser(TO_OFFICIAL, help=text, description=text)
    official.add_argument(
        "--coco91",
        action="store_true",
        help="give a head of COCO's 80 classes the official 91 rows; the new ones never fire",
    )
    add_files(official)
    return parser


def add_options_to_ours(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--coco80",
        action="store_true",
        help="keep Detectron2's 80 classes of the 91 COCO ids, for model.num_classes=80",
    )
    add(
        "--config-file",
        default="",
        metavar="FILE",
        help="an error unless the weights fit the model of this config",
    )
    add_trust_option(parser)
    add("--author", default="", help="`__author__` of the file (default: samdetr, torchvision)")
    add(
        "--matching-heuristics",
        action="store_true",
        help="let Detectron2 find the names by their endings (default: for backbones alone)",
    )
    add_files(parser)


def add_files(parser: argparse.ArgumentParser) -> None:
    add_input(parser)
    add = parser.add_argument
    add("output", help="the file to write, which appears when it is complete")
    add("--format", choices=FORMATS, default="", help="of OUTPUT (default: by its suffix)")
    add("--half", action="store_true", help="store half precision")


def add_input(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", help="the file, or folder, to read")
    parser.add_argument(
        "--trusted",
        action="store_true",
        help="read a .pkl: a pickle is a program, and a hostile one may do harm; other formats are "
        "read without running what is in them",
    )


def run(options: argparse.Namespace) -> str:
    """Do what the options ask for; returns what there is to say."""
    if options.source == DETECT:
        return describe_file(options.input, options.trusted)
    half = options.half or options.source == HALF
    output = Output(options.output, options.format, half=half)
    if options.source == TO_OFFICIAL:
        return export_official(
            options.input, output, spread_coco91=options.coco91, trusted=options.trusted
        )
    return convert_file(
        "ours" if options.source == HALF else options.source,
        options.input,
        output._replace(author=options.author, matching_heuristics=options.matching_heuristics),
        select_coco80=options.coco80,
        config_file=options.config_file,
        trusted=options.trusted,
        trusted_config=options.trusted_config,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argument_parser()
    options = parser.parse_args(arguments)
    with refusing(parser.prog):
        print(run(options))


if __name__ == "__main__":
    main()
