#!/usr/bin/env python
"""Convert weights, mostly of other implementations, for Detectron2's checkpointer."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from samdetr import convert, convert_hf, convert_hf_deformable
from samdetr.convert import StateDict


class Source(NamedTuple):
    """A kind of weights to convert from.

    Fields:
        what: the model, for the help.
        read: from a path to its weights.
        convert: from its weights to ours.
    """

    what: str
    read: Callable[[str], StateDict]
    convert: Callable[[StateDict], StateDict]


def pretrained(what: str, model_type: str, function: Callable[[StateDict], StateDict]) -> Source:
    """A model of the package `transformers`."""
    read = partial(convert_hf.read_pretrained, model_type=model_type)
    return Source(f"a {what} of transformers, saved in a folder", read, function)


SOURCES = {
    "official": Source(
        "a model of the official SAM-DETR", convert.read_state_dict, convert.official_to_samdetr
    ),
    "detr": Source(
        "an original DETR, less its class head", convert.read_state_dict, convert.detr_to_samdetr
    ),
    "half": Source(
        "one of ours, in half precision and weights alone",
        convert.read_state_dict,
        convert.half_precision,
    ),
    "hf-detr": pretrained("DETR", "detr", convert_hf.hf_detr_to_samdetr),
    "hf-conditional": pretrained(
        "Conditional DETR", "conditional_detr", convert_hf.hf_conditional_to_samdetr
    ),
    "hf-dab": pretrained("DAB-DETR", "dab-detr", convert_hf.hf_dab_to_samdetr),
    "hf-deformable": pretrained(
        "Deformable DETR", "deformable_detr", convert_hf_deformable.hf_deformable_to_samdetr
    ),
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    sources = parser.add_subparsers(dest="source", required=True)
    for name, source in SOURCES.items():
        options = sources.add_parser(name, help=source.what)
        options.add_argument(
            "--coco80",
            action="store_true",
            help="keep Detectron2's 80 classes of the 91 COCO ids, for model.num_classes=80",
        )
        options.add_argument("input", help="the file, or folder, to read")
        options.add_argument("output", help="the .pth file to write")
    chosen = parser.parse_args(arguments)
    source = SOURCES[chosen.source]
    try:
        state = source.convert(source.read(chosen.input))
        if chosen.coco80:
            state = convert.coco80(state)
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f"{parser.prog}: {error}")
    convert.save_model(state, chosen.output)
    print(f"{chosen.output}: {len(state)} tensors")


if __name__ == "__main__":
    main()
