"""Detectron2's checkpoint hooks, made to remember what they did before a run was interrupted."""

from __future__ import annotations

import json
import logging
import math
import signal
from pathlib import Path
from typing import Any

from detectron2.engine import hooks
from detectron2.utils import comm

from ..checkpoint import Checkpointer, CheckpointError, checksum_file, replacing
from ..stopping import Stopped, StopRequest


class PeriodicCheckpointer(hooks.PeriodicCheckpointer):
    """Saves periodically, at the end, and when the run is told to stop, which it then does.

    It keeps the last `max_to_keep` checkpoints of a resumed run, not of its last part alone.

    Args:
        checkpointer: whose first process saves; the hook is one of all processes.
        stop: the request to stop.
        period: iterations.
        max_to_keep: checkpoints beside the final one.
    """

    def __init__(
        self,
        checkpointer: Checkpointer,
        stop: StopRequest,
        period: int,
        max_to_keep: int | None = None,
    ):
        super().__init__(checkpointer, period, max_to_keep=max_to_keep)
        self.stop = stop

    def before_train(self) -> None:
        """Find the checkpoints of the iterations before this one."""
        super().before_train()
        first = f"{self.checkpointer.save_dir}/{self.file_prefix}_{self.trainer.start_iter:07}"
        self.recent_checkpoints = [x for x in self.checkpointer.numbered() if x < first]

    def after_step(self) -> None:
        """Save if that is due.

        Raises:
            Stopped: if the run is told to stop, in all processes, when the checkpoint is written.
        """
        stop, iteration = self.stop.agreed(), self.trainer.iter
        final = iteration + 1 == self.max_iter
        if not (stop or final or (iteration + 1) % self.period == 0):
            return
        self.trainer.read_metrics()  # in all processes; they go with the checkpoint
        self.step(iteration, numbered=bool(stop) and not final)
        if stop:
            comm.synchronize()
            logging.getLogger(__name__).info(
                "Stopped by %s after iteration %d, which is saved: start again with --resume",
                signal.Signals(stop).name,
                iteration,
            )
            raise Stopped

    def step(self, iteration: int, numbered: bool = False, **kwargs: Any) -> None:
        """Save what is due at an iteration, and with `numbered` what is not."""
        if numbered or (iteration + 1) % self.period == 0:
            name = f"{self.file_prefix}_{iteration:07}"
            self.checkpointer.save(name, iteration=iteration)
            self.recent_checkpoints.append(f"{self.checkpointer.save_dir}/{name}.pth")
            if comm.is_main_process():
                self._forget()
        if iteration + 1 == self.max_iter:
            self.checkpointer.save(f"{self.file_prefix}_final", iteration=iteration)

    def _forget(self) -> None:
        while self.max_to_keep is not None and len(self.recent_checkpoints) > self.max_to_keep:
            path = Path(self.recent_checkpoints.pop(0))
            path.unlink(missing_ok=True)
            checksum_file(path).unlink(missing_ok=True)


class BestCheckpointer(hooks.BestCheckpointer):
    """Keeps the best model of a resumed run, not of its last part alone.

    The best value and its iteration are in `model_best.json`, beside the model.
    """

    @property
    def _file(self) -> Path:
        return Path(self._checkpointer.save_dir, f"{self._file_prefix}.json")

    def before_train(self) -> None:
        """Take up the best of the iterations before this one.

        Raises:
            CheckpointError: if `model_best.json` does not say what it was.
        """
        if self.trainer.start_iter == 0 or not self._file.is_file():
            return
        try:
            best = json.loads(self._file.read_text())
            value, iteration = float(best[self._val_metric]), best["iteration"]
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            value, iteration = math.nan, None
        if not math.isfinite(value) or type(iteration) is not int or iteration < 0:
            raise CheckpointError(
                f"{self._file} cannot be read: expected a number for {self._val_metric} and its "
                "iteration; without the file the best of the rest of the run is kept"
            )
        self._update_best(value, iteration)

    def _best_checking(self) -> None:
        measured, _ = self.trainer.storage.latest().get(self._val_metric, (0.0, 0))
        if math.isinf(measured):  # Detectron2's would save the model and not count it
            return
        before = self.best_iter
        super()._best_checking()
        if self.best_iter != before:  # the model is written by now: were it not, it would never be
            best = {self._val_metric: self.best_metric, "iteration": self.best_iter}
            with replacing(self._file) as file:
                file.write(json.dumps(best).encode())


class WeightsCheckpointer(Checkpointer):
    """Saves what `--resume` shall not start from: it goes on from the last, not from the best."""

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Leave the tag where it is."""
