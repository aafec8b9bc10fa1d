#!/usr/bin/env python
"""Train and evaluate what a LazyConfig describes. See --help, and README.md."""

import argparse
import sys
import warnings

# What Detectron2's import says on today's torch; nobody who runs this can change it.
warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)

try:
    from samdetr.engine import (
        TrainingError,
        argument_parser,
        configure,
        killed_process,
        main,
        start,
    )
    from samdetr.errors import refusing
except ModuleNotFoundError as error:
    if error.name != "samdetr":
        raise
    sys.exit(
        f"train_net.py: samdetr is not installed for {sys.executable}: run `make env` and use "
        ".venv/bin/python, or `pip install -e .`"
    )

NAME = "train_net.py"


def run(args: argparse.Namespace) -> None:
    """Run one process; input that cannot work, exit code 2, and a fault, 1, are one sentence."""
    try:
        with refusing(NAME):
            main(args)
    except TrainingError as error:
        sys.exit(f"{NAME}: {error}")


if __name__ == "__main__":
    from torch.multiprocessing import ProcessExitedException

    args = argument_parser().parse_args()
    try:
        with refusing(NAME):
            cfg = configure(args)  # an error here is better than one per process
            start(run, args)
    except ProcessExitedException as error:
        if error.signal_name is None:  # it has said why itself
            sys.exit(error.exit_code)
        sys.exit(f"{NAME}: {killed_process(error, cfg.train.output_dir)}")
