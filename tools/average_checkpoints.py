#!/usr/bin/env python
"""Average the weights of several checkpoints of one model, such as the last ones of a run."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from samdetr.checkpoint import load_file, replacing
from samdetr.errors import CheckpointError, refusing


def average(paths: Sequence[str]) -> dict[str, torch.Tensor]:
    """Return the mean of the weights of files; what is not a floating-point number is the last's.

    Raises:
        CheckpointError: if a file cannot be read, or two have different weights.
    """
    sums: dict[str, torch.Tensor] = {}
    for path in paths:
        weights = {name: torch.as_tensor(x) for name, x in load_file(path)["model"].items()}
        shapes = {name: x.shape for name, x in weights.items()}
        if sums and shapes != {name: x.shape for name, x in sums.items()}:
            raise CheckpointError(f"{path} has other weights than {paths[0]}")
        for name, x in weights.items():
            mean = x.is_floating_point()
            sums[name] = sums.get(name, 0) + x.double() / len(paths) if mean else x
    return {name: x.to(weights[name].dtype) for name, x in sums.items()}


@refusing("average_checkpoints.py")
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoints", nargs="+", metavar="CHECKPOINT", help="files to average")
    parser.add_argument("output", metavar="OUT", help=".pth file with the average and its classes")
    args = parser.parse_args()
    # Class names and ids too, as in `model_best.pth`.
    kept = {x: y for x, y in load_file(args.checkpoints[-1]).items() if x == "metadata"}
    model = average(args.checkpoints)
    with replacing(Path(args.output)) as file:
        torch.save({"model": model, **kept}, file)
    print(f"{args.output}: average of {', '.join(args.checkpoints)}")


if __name__ == "__main__":
    main()
