"""Pretrains the backbone of the mini models on single digits and writes its weights.

    python tools/pretrain_mini_backbone.py [--output FILE]

Without options it makes the file that the package ships, in about two minutes on two free cores.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from samdetr.data import mini_backbone_weights
from samdetr.data.mini.pretraining import (
    CROP,
    PretrainingParameters,
    accuracy,
    digit_crops,
    load_classifier,
    pretrain,
    save_backbone,
)
from samdetr.errors import check_writable, refusing

TRAINING_OPTIONS = ("epochs", "batch_size", "learning_rate", "seed")
CROP_OPTIONS = ("size", "min_height", "max_height")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path(mini_backbone_weights()))
    parser.add_argument("--crops", type=int, default=8000, help="images to train on (8000)")
    parser.add_argument("--held-out", type=int, default=2000, help="images to test on (2000)")
    for name in TRAINING_OPTIONS + CROP_OPTIONS:
        default = getattr(PretrainingParameters if name in TRAINING_OPTIONS else CROP, name)
        option = "--" + name.replace("_", "-")
        parser.add_argument(option, type=type(default), default=default, help=f"({default})")
    args = parser.parse_args(arguments)

    for name in ("crops", "held_out", "epochs", "batch_size"):
        if getattr(args, name) < 1:
            option = "--" + name.replace("_", "-")
            parser.error(f"{option} is {getattr(args, name)}, must be 1 or more")
    parameters = PretrainingParameters(**{name: getattr(args, name) for name in TRAINING_OPTIONS})
    with refusing(parser.prog):
        check_writable(args.output)
        crop = dataclasses.replace(CROP, **{name: getattr(args, name) for name in CROP_OPTIONS})
    classifier = pretrain(digit_crops(crop, "train", args.crops), parameters)
    save_backbone(classifier, args.output)
    measured = accuracy(load_classifier(args.output), digit_crops(crop, "val", args.held_out))
    print(f"{args.output}: held-out accuracy {measured['res3']:.1%} on res3, ", end="")
    print(f"{measured['res5']:.1%} on res5")


if __name__ == "__main__":
    main()
