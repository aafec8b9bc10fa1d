"""Events of a run that may be interrupted: its records are those of one that was not."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from detectron2.engine import default_writers, hooks
from detectron2.utils import comm
from detectron2.utils.events import EventWriter, TensorboardXWriter

from ..checkpoint import replacing

METRICS = "metrics.json"
WINDOW = 20  # iterations that Detectron2's writers smooth over
# Measured from the third iteration of a process on: what an earlier process measured would be
# written as if it were of this one.
UNSAVED = ("time",)


class Records(hooks.PeriodicWriter):
    """Detectron2's writers, which go on where the last checkpoint was made.

    With the checkpoint go the scalars that are not written yet or smooth those to come, and the
    size of `metrics.json`: what was written after it will be written again.

    Args:
        output_dir: of the files.
        period: iterations between lines.
    """

    def __init__(self, output_dir: str, period: int):
        super().__init__([], period)
        self.folder = output_dir
        self._saved: dict[str, Any] = {"size": None, "scalars": {}}

    def before_train(self) -> None:
        """Open the writers, in the first process; all take up the scalars."""
        if comm.is_main_process():
            rewind(self.folder, self.trainer.start_iter, self._saved["size"])
            self._writers = [
                Dispensable(writer) if isinstance(writer, TensorboardXWriter) else writer
                for writer in default_writers(self.folder, self.trainer.max_iter)
            ]
        for name, (smoothed, values) in self._saved["scalars"].items():
            for value, iteration in values:
                self.trainer.storage.put_scalar(name, value, smoothed, cur_iter=iteration)

    def state_dict(self) -> dict[str, Any]:
        """Scalars since the last line before this iteration, and the size of the file in bytes."""
        storage = self.trainer.storage
        written = self.trainer.iter // self._period * self._period - 1
        scalars = {
            name: (
                storage.smoothing_hints()[name],
                storage.history(name).values()[-storage.count_samples(name, WINDOW) :],
            )
            for name, (_, iteration) in storage.latest().items()
            if iteration > written and name not in UNSAVED
        }
        file = Path(self.folder, METRICS)
        return {"size": file.stat().st_size if file.is_file() else None, "scalars": scalars}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Keep a state until the training begins."""
        self._saved = state


class Silent(EventWriter):
    """Writes nothing."""

    def write(self) -> None:
        """Leave it."""


class Dispensable(EventWriter):
    """A writer of what others write too: when it fails, that is said and the run goes on without.

    Args:
        writer: that may fail.
    """

    def __init__(self, writer: EventWriter):
        self._writer = writer

    def write(self) -> None:
        """Write, unless it has failed."""
        self._try(self._writer.write)

    def close(self) -> None:
        """Close, unless it has failed."""
        self._try(self._writer.close)

    def _try(self, call: Callable[[], None]) -> None:
        try:
            call()
        except (OSError, ImportError) as error:
            logging.getLogger(__name__).warning(
                "%s has failed (%s) and is left out from now on: %s has the same figures",
                type(self._writer).__name__,
                error,
                METRICS,
            )
            self._writer = Silent()


def rewind(output_dir: str, start_iter: int, size: int | None = None) -> None:
    """Take what a run from `start_iter` on will write itself out of the records of earlier runs.

    An interrupted run has written metrics after its last checkpoint, perhaps half a line at the
    end. They stay in `metrics.json.previous`. A run from the beginning also unties its folder from
    the last checkpoint of another run, to which `--resume` would return.

    Args:
        size: bytes of `metrics.json` to keep; None to go by the iterations in it.
    """
    if start_iter == 0:
        Path(output_dir, "last_checkpoint").unlink(missing_ok=True)
    file = Path(output_dir, METRICS)
    if not file.is_file():
        return
    content = file.read_bytes()
    if size is None:
        lines = content.splitlines(keepends=True)
        kept = b"".join(line for line in lines if _before(line, start_iter))
    else:
        kept = content[:size]
    shutil.copyfile(file, f"{file}.previous")
    with replacing(file) as new:
        new.write(kept)


def _before(line: bytes, iteration: int) -> bool:
    try:
        metrics: dict[str, Any] = json.loads(line)
    except ValueError:
        return False
    return metrics["iteration"] < iteration
