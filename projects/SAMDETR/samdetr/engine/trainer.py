"""The training step: mixed precision, clipping by the total norm, and an end when numbers fail."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from detectron2.engine import SimpleTrainer
from detectron2.engine.hooks import PeriodicWriter
from torch import nn

from .config import ConfigError

PRECISIONS = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class Trainer(SimpleTrainer):
    """Detectron2's trainer for CPU and GPU, in full or mixed precision.

    Args:
        model: a list of dicts to weighted losses by name.
        data_loader: endless batches.
        optimizer: of the model's parameters.
        amp: `enabled`, and `dtype`, "bfloat16" or, on a GPU, "float16" with a scaled loss.
        clip_grad: `max_norm` of all gradients together, inf for none, and `norm_type`.

    Raises:
        ConfigError: if `amp.dtype` is unknown or the device does not have it.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[list[dict[str, Any]]],
        optimizer: torch.optim.Optimizer,
        amp: Mapping[str, Any],
        clip_grad: Mapping[str, Any],
    ):
        super().__init__(model, data_loader, optimizer)
        self.device_type = next(model.parameters()).device.type
        self.amp_enabled, self.amp_dtype = self._precision(**amp)
        self.clip_grad = clip_grad
        # float16 alone needs its loss scaled: bfloat16 has the range of float32.
        scaled = self.amp_enabled and self.amp_dtype is torch.float16
        self.grad_scaler = torch.amp.GradScaler(self.device_type, enabled=scaled)

    def _precision(self, enabled: bool, dtype: str) -> tuple[bool, torch.dtype]:
        if dtype not in PRECISIONS:
            raise ConfigError(f"train.amp.dtype is {dtype!r}, must be one of {sorted(PRECISIONS)}")
        if enabled and dtype == "float16" and self.device_type == "cpu":
            raise ConfigError("train.amp.dtype is 'float16', which needs a GPU; a CPU has bfloat16")
        return enabled, PRECISIONS[dtype]

    def run_step(self) -> None:
        """One iteration: batch, losses, gradients, metrics, step.

        Raises:
            FloatingPointError: if a loss or the norm of the gradients is not finite. The weights
                are then still those of the last step.
        """
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        with torch.autocast(self.device_type, self.amp_dtype, enabled=self.amp_enabled):
            losses = self.model(data)
        self.optimizer.zero_grad()
        self.grad_scaler.scale(sum(losses.values())).backward()
        self.after_backward()
        self._write_metrics(losses, data_time)
        self._clip()
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def _clip(self) -> None:
        self.grad_scaler.unscale_(self.optimizer)
        parameters = [x for group in self.optimizer.param_groups for x in group["params"]]
        norm = float(nn.utils.clip_grad_norm_(parameters, **self.clip_grad))
        if math.isfinite(norm):
            self.storage.put_scalar("grad_norm", norm)
        elif not self.grad_scaler.is_enabled():  # else the scaler skips the step
            raise FloatingPointError(
                f"The norm of the gradients became {norm} at iteration={self.iter}!"
            )

    def after_train(self) -> None:
        """After a finished run all hooks end; after a failed one the writers alone.

        A failure in the very last iteration looks like the end to Detectron2's hooks: they would
        evaluate the model and keep it as the best.
        """
        if self.iter >= self.max_iter:
            super().after_train()
            return
        for hook in self._hooks:
            if isinstance(hook, PeriodicWriter):
                hook.after_train()
        self.concurrent_executor.shutdown()

    def state_dict(self) -> dict[str, Any]:
        """Iteration, hooks, optimiser and loss scale."""
        return {**super().state_dict(), "grad_scaler": self.grad_scaler.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state of `state_dict`; one without a loss scale leaves the scaler fresh."""
        super().load_state_dict(state_dict)
        # A disabled scaler saves nothing, and an enabled one refuses nothing.
        if state_dict["grad_scaler"]:
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])
