"""Runs scripts in the process of the tests, which need not import torch again for them."""

import logging
import runpy
import sys
from pathlib import Path
from unittest.mock import patch

ROOT = Path(__file__).parents[1]


def train_net(*arguments):
    """Returns the exit code."""
    return run_script("train_net.py", *arguments)


def run_script(name, *arguments):
    """Run a script of the checkout; returns the exit code. The loggers are afterwards as before."""
    loggers = [logging.getLogger(name) for name in ("detectron2", "fvcore", "samdetr")]
    before = [(x.level, x.propagate, x.handlers[:]) for x in loggers]
    try:
        with patch.object(sys, "argv", [name, *map(str, arguments)]):
            runpy.run_path(str(ROOT / name), run_name="__main__")
    except SystemExit as exit:
        return exit.code
    finally:
        for logger, (level, propagate, handlers) in zip(loggers, before):
            logger.level, logger.propagate, logger.handlers = level, propagate, handlers
    return 0
