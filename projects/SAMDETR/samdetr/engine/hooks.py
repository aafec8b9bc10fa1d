"""Hooks for exact resumption and for stopping.

A resumed run repeats the interrupted one to the last bit: random numbers are a function of seed,
iteration and process, checkpoints are atomic, and what was due after a checkpoint is done again.

`_writers` of Detectron2's `PeriodicWriter` is private: writers open their files when they are made,
which must not be before `metrics.json` is rewound.
"""

from __future__ import annotations

import json
import logging
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.engine import HookBase, default_writers, hooks
from detectron2.utils import comm

from ..checkpoint import Checkpointer, checksum_file, replacing
from ..errors import ConfigError
from ..randomness import seed_all
from ..writers import WRITERS
from .config import build
from .launch import Stopped, StopRequest


class Seed(HookBase):
    """Seeds every iteration as a function of the run's seed, the iteration and the process.

    The seed, 0 or more, is then all of the random state that a checkpoint needs.
    """

    def __init__(self, seed: int):
        self.seed = seed

    def before_step(self) -> None:
        seed_all(self.seed, self.trainer.iter, comm.get_rank())

    def state_dict(self) -> dict[str, int]:
        return {"seed": self.seed, "processes": comm.get_world_size()}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue with the seed of the run, and log what differs in this part of it."""
        logger = logging.getLogger(__name__)
        processes = comm.get_world_size()
        if state["seed"] != self.seed:
            logger.info("The run continues with train.seed=%d, its first one", state["seed"])
        if state["processes"] != processes:
            logger.warning(
                "The run continues in %d processes instead of %d: images come in the same order "
                "but are shared differently, and the model draws other random numbers",
                processes,
                state["processes"],
            )
        self.seed = state["seed"]


class CatchUp(HookBase):
    """Runs the hooks that were still due when the checkpoint of an iteration was made.

    These are the ones after the hook that makes checkpoints: an evaluation may fail.
    """

    def __init__(self, hooks: Sequence[HookBase]):
        self.hooks = hooks

    def before_train(self) -> None:
        """End the last iteration before this run; the other hooks are ready by now."""
        trainer, start_iter = self.trainer, self.trainer.start_iter
        if start_iter == 0:
            return
        trainer.iter = trainer.storage.iter = start_iter - 1
        for hook in self.hooks:
            hook.after_step()
        trainer.iter = trainer.storage.iter = start_iter


class MetricsWriter(hooks.PeriodicWriter):
    """Detectron2's writers, which continue `metrics.json` from the checkpoint on, and others.

    Args:
        output_dir: folder of the files.
        period: iterations between lines.
        writers: further ones: keys of `samdetr.writers.WRITERS`, or calls.

    Raises:
        ConfigError: if a writer is unknown or refuses its arguments.
        ModuleNotFoundError: if the package of a writer is not installed.
    """

    def __init__(self, output_dir: str, period: int, writers: Sequence[Any] = ()):
        super().__init__([], period)
        self.folder = output_dir
        if unknown := [x for x in writers if isinstance(x, str) and x not in WRITERS]:
            raise ConfigError(f"train.writers has {unknown}, must be of {[*WRITERS]}, or calls")
        self.others = [
            WRITERS[x](output_dir) if isinstance(x, str) else build(x, "train.writers")
            for x in writers
            if comm.is_main_process()
        ]

    def before_train(self) -> None:
        if comm.is_main_process():
            rewind(self.folder, self.trainer.start_iter)
            # TensorBoard's writer is the last one, since it deletes the pictures it has written.
            self._writers = [*self.others, *default_writers(self.folder, self.trainer.max_iter)]


def rewind(output_dir: str, start_iter: int) -> None:
    """Remove from `metrics.json` what a run from `start_iter` on writes again.

    The file as it was stays in `metrics.json.previous`. A run from iteration 0 also removes
    `last_checkpoint` and ids of tracking services, so that it cannot continue an older run.
    """
    if start_iter == 0:
        for file in [Path(output_dir, "last_checkpoint"), *Path(output_dir).glob("*.run_id")]:
            file.unlink(missing_ok=True)
    file = Path(output_dir, "metrics.json")
    if not file.is_file():
        return
    kept = []
    for line in file.read_text().splitlines():
        try:
            row = json.loads(line)
        except ValueError:  # half a line
            continue
        if row["iteration"] == start_iter - 1:  # whose evaluation is repeated
            row = {name: value for name, value in row.items() if "/" not in name}
        if row["iteration"] < start_iter and len(row) > 1:
            kept.append(json.dumps(row, sort_keys=True) + "\n")
    shutil.copyfile(file, f"{file}.previous")
    with replacing(file) as new:
        new.write("".join(kept).encode())


def has_evaluation(output_dir: str, iteration: int) -> bool:
    """Return whether `metrics.json` has the metrics of a test set at an iteration."""
    file = Path(output_dir, "metrics.json")
    lines = file.read_text().splitlines() if file.is_file() else []
    return any("/" in line and json.loads(line)["iteration"] == iteration for line in lines)


class PeriodicCheckpointer(hooks.PeriodicCheckpointer):
    """Saves periodically, at the end, and when the run is told to stop, which it then does.

    `max_to_keep` counts the checkpoints of a resumed run, not only those of its last part.

    Args:
        checkpointer: saves in the first process; the hook belongs to all processes.
        stop: request to stop.
        period: iterations.
        max_to_keep: number of checkpoints beside the final one.
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
        super().before_train()
        first = f"{self.checkpointer.save_dir}/{self.file_prefix}_{self.trainer.start_iter:07}"
        self.recent_checkpoints = [x for x in self.checkpointer.numbered() if x < first]

    def after_step(self) -> None:
        """Save if that is due.

        Raises:
            Stopped: in all processes, after saving, if the run is told to stop.
        """
        stop, iteration = self.stop.agreed(), self.trainer.iter
        final = iteration + 1 == self.max_iter
        if not (stop or final or (iteration + 1) % self.period == 0):
            return
        self.trainer.read_metrics()  # in all processes: no failed iteration may be saved
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
        """Save what is due at an iteration, and with `numbered` a checkpoint that is not due."""
        if numbered or (iteration + 1) % self.period == 0:
            name = f"{self.file_prefix}_{iteration:07}"
            self.checkpointer.save(name, iteration=iteration)
            self.recent_checkpoints.append(f"{self.checkpointer.save_dir}/{name}.pth")
            if comm.is_main_process():
                self._delete_old()
        if iteration + 1 == self.max_iter:
            self.checkpointer.save(f"{self.file_prefix}_final", iteration=iteration)

    def _delete_old(self) -> None:
        while self.max_to_keep is not None and len(self.recent_checkpoints) > self.max_to_keep:
            path = Path(self.recent_checkpoints.pop(0))
            path.unlink(missing_ok=True)
            checksum_file(path).unlink(missing_ok=True)


class WeightsCheckpointer(Checkpointer):
    """Checkpointer of `model_best.pth`, which `--resume` must not start from."""

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Leave `last_checkpoint` unchanged."""


class BestCheckpointer(hooks.BestCheckpointer):
    """Keeps the best model of a resumed run, not only of its last part.

    `model_best.json` has the best value and its iteration.

    Args:
        eval_period: iterations between evaluations.
        checkpointer: saves the model.
        val_metric: name of the metric, such as "bbox/AP"; larger is better.
    """

    def __init__(self, eval_period: int, checkpointer: Checkpointer, val_metric: str):
        super().__init__(eval_period, checkpointer, val_metric)
        self.metric = val_metric
        self.file = Path(checkpointer.save_dir, "model_best.json")
        self.recorded: int | None = None  # iteration

    def before_train(self) -> None:
        if self.trainer.start_iter == 0 or not self.file.is_file():
            return
        best = json.loads(self.file.read_text())
        if self.metric in best:  # else the run was resumed with another metric
            self.best_metric, self.best_iter = best[self.metric], best["iteration"]
            self.recorded = self.best_iter

    def after_step(self) -> None:
        super().after_step()
        self._record()

    def after_train(self) -> None:
        super().after_train()
        self._record()

    def _record(self) -> None:
        if self.best_iter != self.recorded:
            best = {self.metric: self.best_metric, "iteration": self.best_iter}
            with replacing(self.file) as file:
                file.write(json.dumps(best).encode())
            self.recorded = self.best_iter
