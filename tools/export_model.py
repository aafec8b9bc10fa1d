#!/usr/bin/env python
"""Export a detector to ONNX, torch.export or TorchScript and compare each file with the model.

Boxes are corners (x0, y0, x1, y1) as fractions of the image. A file is only kept if its scores are
within 0.001 and its boxes within 0.1 pixels of the model's at every size.
"""

from __future__ import annotations

import argparse
import sys

from argument_types import image_size
from samdetr.engine import add_trust_option
from samdetr.engine.config import split_overrides
from samdetr.errors import refusing
from samdetr.export import (
    FORMATS,
    INPUTS,
    MIN_SIZE,
    OUTPUTS,
    DisagreementError,
    Settings,
    export_config,
)

EPILOG = """
examples:
  tools/export_model.py --config-file configs/mini/sam_detr_smca.py \\
      --weights projects/SAMDETR/samdetr/weights/mini_sam_detr_smca.pth --output mini.onnx
  tools/export_model.py --config-file configs/coco/sam_detr_pp_r50_smca_12ep.py \\
      --weights model_final.pth --output detector.pt2 detector.onnx --batch 1 --top-k outside
"""


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config-file", required=True, metavar="FILE", help="config of the model")
    add("--weights", default="", metavar="FILE", help="checkpoint (default: random weights)")
    add(
        "--output",
        nargs="+",
        required=True,
        metavar="FILE",
        help=f"files to write, ending in {', '.join(FORMATS)}",
    )
    add(
        "--preprocessing",
        choices=list(INPUTS),
        default="inside",
        help="normalise and pad inside the graph, which then takes pixels and the sizes of the "
        "images, or outside (default: inside)",
    )
    add(
        "--top-k",
        choices=list(OUTPUTS),
        default="inside",
        help="select the best detections inside the graph, or outside, with the graph returning "
        "the scores of all queries and classes (default: inside)",
    )
    add("--batch", choices=["any", "1"], default="any", help="images at a time (default: any)")
    add(
        "--size",
        nargs="+",
        type=image_size(MIN_SIZE),
        default=[],
        metavar="HEIGHTxWIDTH",
        help="sizes to compare at (default: three that the config's test images have)",
    )
    add("overrides", nargs="*", help="key=value, anywhere")
    add_trust_option(parser)
    return parser


@refusing("export_model.py")
def main(arguments: list[str] | None = None) -> None:
    words, overrides = split_overrides(sys.argv[1:] if arguments is None else arguments)
    parser = argument_parser()
    options = parser.parse_intermixed_args(words)
    settings = Settings(options.preprocessing, options.top_k, options.batch == "any", options.size)
    try:
        export_config(
            options.config_file,
            [*options.overrides, *overrides],
            options.weights,
            options.output,
            settings,
            trusted=options.trusted_config,
        )
    except DisagreementError as error:
        sys.exit(f"{parser.prog}: {error}")


if __name__ == "__main__":
    main()
