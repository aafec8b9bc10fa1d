"""Detectron2's checkpoint hooks, made to remember what they did before a run was interrupted."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from detectron2.engine import hooks

from ..checkpoint import Checkpointer

METRICS = "metrics.json"


class PeriodicCheckpointer(hooks.PeriodicCheckpointer):
    """Keeps the last `max_to_keep` checkpoints of a resumed run, not of its last part alone."""

    def before_train(self) -> None:
        """Find the checkpoints of the iterations before this one."""
        super().before_train()
        pattern = re.compile(rf"{self.file_prefix}_(\d{{7}})\.pth")
        files = sorted(self.checkpointer.get_all_checkpoint_files())
        found = [(pattern.fullmatch(os.path.basename(file)), file) for file in files]
        self.recent_checkpoints = [
            file for match, file in found if match and int(match[1]) < self.trainer.start_iter
        ]


class BestCheckpointer(hooks.BestCheckpointer):
    """Keeps the best model of a resumed run, not of its last part alone.

    The best value and its iteration are in `model_best.json`, beside the model.
    """

    @property
    def _file(self) -> Path:
        return Path(self._checkpointer.save_dir, f"{self._file_prefix}.json")

    def before_train(self) -> None:
        """Take up the best of the iterations before this one."""
        if self.trainer.start_iter > 0 and self._file.is_file():
            best = json.loads(self._file.read_text())
            self._update_best(best[self._val_metric], best["iteration"])

    def _update_best(self, val: float, iteration: int) -> bool:
        updated = super()._update_best(val, iteration)
        if updated:
            self._file.write_text(json.dumps({self._val_metric: val, "iteration": iteration}))
        return updated


class WeightsCheckpointer(Checkpointer):
    """Saves what `--resume` shall not start from: it goes on from the last, not from the best."""

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Leave the tag where it is."""


def rewind(output_dir: str, start_iter: int) -> None:
    """Take what a run from `start_iter` on will write itself out of the records of earlier runs.

    An interrupted run has written metrics after its last checkpoint, perhaps half a line at the
    end. They stay in `metrics.json.previous`. A run from the beginning also unties its folder from
    the last checkpoint of another run, to which `--resume` would return.
    """
    if start_iter == 0:
        Path(output_dir, "last_checkpoint").unlink(missing_ok=True)
    file = Path(output_dir, METRICS)
    if not file.is_file():
        return
    kept = [line for line in file.read_text().splitlines() if _before(line, start_iter)]
    file.replace(f"{file}.previous")
    file.write_text("".join(f"{line}\n" for line in kept))


def _before(line: str, iteration: int) -> bool:
    try:
        metrics: dict[str, Any] = json.loads(line)
    except json.JSONDecodeError:
        return False
    return metrics["iteration"] < iteration
