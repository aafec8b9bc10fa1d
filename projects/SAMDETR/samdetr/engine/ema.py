"""Exponential moving average of the weights, in place of which it is evaluated and saved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.engine import HookBase
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from ..errors import ConfigError


class EMA(HookBase):
    """Averages the weights: average += (1 - d) (weights - average), where the decay d rises from 0.

    After n updates d is decay * (1 - exp(-n / warmup)), as in YOLOv5 and RT-DETR. What is evaluated
    and saved is the average; the hook's state has the weights that training continues from.

    Args:
        model: that is trained, without DDP.
        decay: limit of the decay, in [0, 1).
        warmup: updates after which the decay is 63 % of its limit; 0 for the limit at once.
        period: steps per update.

    Attributes:
        average: the model with averaged weights; training starts from those loaded into it.

    Raises:
        ConfigError: if an argument is out of range.
    """

    def __init__(
        self, model: nn.Module, decay: float = 0.9998, warmup: float = 2000, period: int = 1
    ):
        if not 0 <= decay < 1 or warmup < 0 or period < 1:
            raise ConfigError(
                f"train.ema has decay={decay}, warmup={warmup}, period={period}; expected a decay "
                "from 0 to below 1, a warmup of 0 or more and a period of 1 or more"
            )
        self.model = model
        self.decay = decay
        self.warmup = warmup
        self.period = period
        self._averaged = AveragedModel(model, multi_avg_fn=self._update)
        self.average: nn.Module = self._averaged.module.requires_grad_(False)
        self._resumed = False

    @torch.no_grad()
    def _update(self, average: Sequence[Tensor], current: Sequence[Tensor], updates: Any) -> None:
        warm = 1 - torch.exp(-updates / self.warmup) if self.warmup else torch.ones_like(updates)
        weight = 1 - self.decay * warm
        for x, y in zip(average, current):
            x.lerp_(y, weight.to(x.dtype))

    def before_train(self) -> None:
        """Start from the weights that were loaded into the average."""
        if not self._resumed:
            self.model.load_state_dict(self.average.state_dict())
            self._averaged.update_parameters(self.model)  # the first update copies

    def after_step(self) -> None:
        """Update the average."""
        if (self.trainer.iter + 1) % self.period == 0:
            self._averaged.update_parameters(self.model)

    def state_dict(self) -> dict[str, Any]:
        """Return the weights that are trained, and the number of updates."""
        return {"model": self.model.state_dict(), "updates": int(self._averaged.n_averaged)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue training from the weights of the state."""
        self.model.load_state_dict(state["model"])
        self._averaged.n_averaged.fill_(state["updates"])
        self._resumed = True
