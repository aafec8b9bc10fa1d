"""Lengths of a training in epochs, its early end, and learning rates that follow the batch size."""

from __future__ import annotations

import logging
import math
from typing import Any

from detectron2.engine import HookBase
from detectron2.utils import comm
from omegaconf import DictConfig

from ..errors import ConfigError
from .config import build

logger = logging.getLogger(__name__)


def images_per_step(cfg: DictConfig) -> int:
    """Return the number of images of a step, over all processes and accumulated batches."""
    if not (batch := cfg.dataloader.train.get("total_batch_size")):
        raise ConfigError("the config has no dataloader.train.total_batch_size to count images by")
    return int(batch * cfg.train.get("accumulate", 1))


def use_epochs(cfg: DictConfig) -> None:
    """Set `max_iter` and periods from `train.epochs`, `eval_epochs` and `checkpoint_epochs`.

    The data set is read here, and not again when the loader is built.

    Raises:
        ConfigError: if a number of epochs is not positive, or the loader of the config has no
            `dataset` or `total_batch_size`.
    """
    settings = cfg.train
    if settings.get("epochs") is None:
        return
    if cfg.dataloader.train.get("dataset") is None:
        raise ConfigError("train.epochs needs dataloader.train.dataset: use train.max_iter instead")
    records = build(cfg.dataloader.train.dataset, "dataloader.train.dataset")
    cfg.dataloader.train.dataset._target_ = lambda **_: records
    batch = images_per_step(cfg)

    def iterations(key: str, default: int) -> int:
        if (epochs := settings.get(key)) is None:
            return default
        if epochs <= 0:
            raise ConfigError(f"train.{key} is {epochs}, must be positive, or null")
        return math.ceil(epochs * len(records) / batch)

    settings.max_iter = iterations("epochs", 0)
    settings.eval_period = iterations("eval_epochs", settings.eval_period)
    period = iterations("checkpoint_epochs", settings.checkpointer.period)
    settings.checkpointer.period = period
    logger.info(
        f"train.epochs={settings.epochs} of {len(records)} images, {batch} per iteration: "
        f"{settings.max_iter} iterations, an evaluation every {settings.eval_period}, a checkpoint "
        f"every {period}"
    )


def scale_learning_rate(cfg: DictConfig) -> None:
    """Scale `optimizer.lr` by images per step / `optimizer.base_batch_size`, if that is set.

    Raises:
        ConfigError: if `base_batch_size` is not positive.
    """
    base = cfg.optimizer.pop("base_batch_size", None)  # not an argument of the optimizer
    if base is None:
        return
    if base <= 0:
        raise ConfigError(f"optimizer.base_batch_size is {base}, must be positive")
    batch, rate = images_per_step(cfg), cfg.optimizer.lr
    cfg.optimizer.lr = rate * batch / base
    text = "optimizer.lr=%g is for %d images per step; here are %d, so that it becomes %g"
    logger.info(text, rate, base, batch, cfg.optimizer.lr)


class Converged(BaseException):
    """Raised by `EarlyStop`; not an error, so that the trainer does not log it as one."""


class EarlyStop(HookBase):
    """Ends a training whose metric has stopped rising.

    Args:
        metric: name of the metric, such as "bbox/AP"; larger is better.
        eval_period: iterations between evaluations.
        patience: evaluations without a gain after which the training ends.
        min_gain: least rise above the best value so far that counts as a gain.

    Raises:
        ConfigError: if `patience` is not positive, or nothing is evaluated before the end.
    """

    def __init__(self, metric: str, eval_period: int, patience: int, min_gain: float = 0.0):
        if patience < 1 or eval_period < 1:
            raise ConfigError(
                f"train.early_stop.patience={patience} with train.eval_period={eval_period}: both "
                "must be 1 or more"
            )
        self.metric = metric
        self.eval_period = eval_period
        self.patience = patience
        self.min_gain = min_gain
        self.state: dict[str, Any] = {"best": -math.inf, "waited": 0, "iteration": -1}

    @property
    def finished(self) -> bool:
        """Whether the training has ended."""
        return bool(self.state["waited"] >= self.patience)

    def after_step(self) -> None:
        """Count evaluations without a gain.

        Raises:
            Converged: in all processes, once there are enough of them.
        """
        if (self.trainer.iter + 1) % self.eval_period:
            return
        value, iteration = self.trainer.storage.latest().get(self.metric, (math.nan, -1))
        # In the first process, and not for an evaluation that `CatchUp` has repeated.
        if iteration == self.trainer.iter > self.state["iteration"]:
            best, waited = self.state["best"], self.state["waited"] + 1
            if value > best + self.min_gain:
                best, waited = value, 0
            self.state = {"best": best, "waited": waited, "iteration": iteration}
        self.state = comm.all_gather(self.state)[0]
        if self.finished:
            self.trainer.read_metrics()
            logger.info(
                f"{self.metric} has not risen above {self.state['best']:g} in {self.patience} "
                f"evaluations: the training ends after iteration {self.trainer.iter}"
            )
            raise Converged

    def state_dict(self) -> dict[str, Any]:
        """Return the best value and the number of evaluations since then."""
        return self.state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue counting."""
        self.state = state
