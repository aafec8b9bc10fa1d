"""Runs train_net.py in the process of the tests, which need not import torch again for it."""

import logging
import runpy
import sys
from pathlib import Path
from unittest.mock import patch

TRAIN_NET = str(Path(__file__).parents[1] / "train_net.py")


def train_net(*arguments):
    """Returns the exit code; the loggers are afterwards as they were."""
    loggers = [logging.getLogger(name) for name in ("detectron2", "fvcore", "samdetr")]
    before = [(x.level, x.propagate, x.handlers[:]) for x in loggers]
    try:
        with patch.object(sys, "argv", [TRAIN_NET, *map(str, arguments)]):
            runpy.run_path(TRAIN_NET, run_name="__main__")
    except SystemExit as exit:
        return exit.code
    finally:
        for logger, (level, propagate, handlers) in zip(loggers, before):
            logger.level, logger.propagate, logger.handlers = level, propagate, handlers
    return 0
