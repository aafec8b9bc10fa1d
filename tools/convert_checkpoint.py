#!/usr/bin/env python
"""Convert weights, mostly of other implementations, for Detectron2's checkpointer."""

from __future__ import annotations

import argparse
import sys

from samdetr import convert


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    sources = parser.add_subparsers(dest="source", required=True)
    official = sources.add_parser("official", help="a model of the official SAM-DETR")
    official.add_argument(
        "--coco80",
        action="store_true",
        help="keep Detectron2's 80 classes of the 91 COCO ids, for model.num_classes=80",
    )
    detr = sources.add_parser("detr", help="an original DETR, less its class head")
    half = sources.add_parser("half", help="one of ours, in half precision and weights alone")
    for source in (official, detr, half):
        source.add_argument("input", help="the .pth file to read")
        source.add_argument("output", help="the .pth file to write")
    options = parser.parse_args(arguments)
    try:
        state = convert.read_state_dict(options.input)
        if options.source == "official":
            state = convert.official_to_samdetr(state, options.coco80)
        elif options.source == "detr":
            state = convert.detr_to_samdetr(state)
        else:
            state = convert.half_precision(state)
    except (OSError, ValueError) as error:
        sys.exit(f"{parser.prog}: {error}")
    convert.save_model(state, options.output)
    print(f"{options.output}: {len(state)} tensors")


if __name__ == "__main__":
    main()
