#!/usr/bin/env python
"""Train and evaluate what a LazyConfig describes. See --help, and README.md."""

import argparse
import sys

try:
    from samdetr.engine import (
        TrainingError,
        configure,
        killed_process,
        main,
        parse_arguments,
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


@refusing(NAME)
def launch() -> None:
    """Parse the command line and start its processes."""
    from torch.multiprocessing import ProcessExitedException

    args = parse_arguments()
    cfg = configure(args)  # an error here is better than one per process
    try:
        start(run, args)
    except ProcessExitedException as error:
        if error.signal_name is None:  # it has said why itself
            sys.exit(error.exit_code)
        sys.exit(f"{NAME}: {killed_process(error, cfg.train.output_dir)}")


if __name__ == "__main__":
    launch()
