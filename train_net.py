#!/usr/bin/env python
"""Train and evaluate what a LazyConfig describes. See --help, and README.md."""

import argparse
import sys
import warnings

# What Detectron2's import says on today's torch; nobody who runs this can change it.
warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)

try:
    from samdetr.checkpoint import CheckpointError
    from samdetr.data import DataError
    from samdetr.engine import ConfigError, argument_parser, configure, main, start
except ModuleNotFoundError as error:
    if error.name != "samdetr":
        raise
    sys.exit(
        f"train_net.py: samdetr is not installed for {sys.executable}: run `make env` and use "
        ".venv/bin/python, or `pip install -e .`"
    )

# What the people who run this can put right; anything else is a fault of the code.
FAULTS = (ConfigError, CheckpointError, DataError, OSError, ModuleNotFoundError)


def run(args: argparse.Namespace) -> None:
    """Run one process; input that cannot work is one sentence and exit code 2."""
    try:
        main(args)
    except FAULTS as error:
        refuse(error)


def refuse(error: Exception) -> None:
    """Print the error in one line and exit."""
    lines = str(error).split("\n")
    if lines[0].startswith("Caught "):  # by a worker of a loader, which puts its traceback here
        lines = [line for line in lines if line][-1:]
    print("train_net.py:", *(line.strip() for line in lines), file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    from torch.multiprocessing import ProcessExitedException

    args = argument_parser().parse_args()
    try:
        configure(args)  # an error here is better than one per process
        start(run, args)
    except FAULTS as error:
        refuse(error)
    except ProcessExitedException as error:  # one of several processes has refused already
        sys.exit(error.exit_code)
