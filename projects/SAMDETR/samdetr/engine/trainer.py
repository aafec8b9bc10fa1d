"""The training step: mixed precision, clipping by the total norm, and an end when numbers fail."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from detectron2.engine import SimpleTrainer
from detectron2.engine.hooks import PeriodicWriter
from torch import Tensor, nn

from ..errors import ConfigError
from .settings import PRECISIONS


class Metrics(NamedTuple):
    """What an iteration measured, still on the device."""

    iteration: int
    data_time: float  # seconds
    names: list[str]  # of the losses
    values: Tensor  # of the losses, and the norm of the gradients behind them


class Trainer(SimpleTrainer):
    """Detectron2's trainer for CPU and GPU, in full or mixed precision.

    To read a loss is to wait for the device. Losses and norms can be read for several iterations at
    once if the optimiser can leave out a step without asking the host, as torch's fused ones can:
    from a failed iteration on it leaves out all of them. Others are read before every step, and
    those with a scaled loss, where an iteration may fail.

    Args:
        model: a list of dicts to weighted losses by name.
        data_loader: endless batches.
        optimizer: of the model's parameters.
        amp: `enabled`, and `dtype`, "bfloat16" or, on a GPU, "float16" with a scaled loss.
        clip_grad: `max_norm` of all gradients together, inf for none, and `norm_type`.
        metrics_period: iterations whose losses are read at once, where that can be.

    Raises:
        ConfigError: if `amp.dtype` is unknown or the device does not have it, or if
            `metrics_period` is not positive.
    """

    iter: int  # of Detectron2's trainers, which have no types

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[list[dict[str, Any]]],
        optimizer: torch.optim.Optimizer,
        amp: Mapping[str, Any],
        clip_grad: Mapping[str, Any],
        metrics_period: int = 1,
    ):
        super().__init__(model, data_loader, optimizer)
        if metrics_period < 1:
            raise ConfigError(f"metrics_period is {metrics_period}, must be 1 or more")
        device = next(model.parameters()).device
        self.device_type = device.type
        self.amp_enabled, self.amp_dtype = self._precision(**amp)
        self.clip_grad = clip_grad
        # float16 alone needs its loss scaled: bfloat16 has the range of float32.
        scaled = self.amp_enabled and self.amp_dtype is torch.float16
        self.grad_scaler = torch.amp.GradScaler(self.device_type, enabled=scaled)
        fused = all(group.get("fused") for group in optimizer.param_groups)
        self.metrics_period = metrics_period if fused and not scaled else 1
        self._unread: list[Metrics] = []
        self._failed = torch.zeros((), device=device)  # 1 from the first failed iteration on

    def _precision(self, enabled: bool, dtype: str) -> tuple[bool, torch.dtype]:
        if dtype not in PRECISIONS:
            raise ConfigError(f"train.amp.dtype is {dtype!r}, must be one of {sorted(PRECISIONS)}")
        if enabled and dtype == "float16" and self.device_type == "cpu":
            raise ConfigError("train.amp.dtype is 'float16', which needs a GPU; a CPU has bfloat16")
        return enabled, PRECISIONS[dtype]

    def run_step(self) -> None:
        """One iteration: batch, losses, gradients, metrics, step.

        Raises:
            FloatingPointError: if a loss or the norm of the gradients is not finite, in this
                iteration or in one whose metrics were not read yet. The weights are then still
                those before it.
        """
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        self.optimizer.zero_grad()  # first, so as not to hold them beside the activations
        with torch.autocast(self.device_type, self.amp_dtype, enabled=self.amp_enabled):
            losses = self.model(data)
        values = torch.stack([*losses.values()])
        self.grad_scaler.scale(values.sum()).backward()
        self.after_backward()
        values = torch.cat([values.detach(), self._clip()[None]])
        self._unread.append(Metrics(self.iter, data_time, [*losses], values))
        if (self.iter + 1) % self.metrics_period == 0 or self.iter + 1 == self.max_iter:
            self.read_metrics()
        else:
            self._failed = torch.maximum(self._failed, 1.0 - values.isfinite().all().float())
            self.optimizer.found_inf = self._failed
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def _clip(self) -> Tensor:
        """Clip the gradients, and return their norm before that."""
        self.grad_scaler.unscale_(self.optimizer)
        parameters = [x for group in self.optimizer.param_groups for x in group["params"]]
        return nn.utils.clip_grad_norm_(parameters, **self.clip_grad)

    def read_metrics(self) -> None:
        """Write the metrics not read yet, of any number of iterations, by one copy to the host.

        All processes take part.

        Raises:
            FloatingPointError: if one of them is not finite.
        """
        unread, self._unread = self._unread, []
        if not unread:
            return
        rows = torch.stack([x.values for x in unread]).cpu()
        for (iteration, data_time, names, _), (*losses, norm) in zip(unread, rows):
            self._write_metrics(dict(zip(names, losses)), data_time, iter=iteration)
            if math.isfinite(norm):
                self.storage.put_scalar("grad_norm", float(norm), cur_iter=iteration)
            elif not self.grad_scaler.is_enabled():  # else the scaler skips the step
                raise FloatingPointError(
                    f"The norm of the gradients became {float(norm)} at iteration={iteration}!"
                )

    def after_train(self) -> None:
        """After a finished run all hooks end; after a failed one the writers alone.

        A failure in the very last iteration looks like the end to Detectron2's hooks: they would
        evaluate the model and keep it as the best.
        """
        if self.iter >= self.max_iter:
            self.iter = self.max_iter  # one more if there was nothing left to train
            super().after_train()
            return
        for hook in self._hooks:
            if isinstance(hook, PeriodicWriter):
                hook.after_train()
        self.concurrent_executor.shutdown()

    def state_dict(self) -> dict[str, Any]:
        """Iteration, hooks, optimiser and loss scale.

        Raises:
            FloatingPointError: as `run_step`, so that no checkpoint is made of a failed iteration.
        """
        # Not by reading the metrics, in which all processes take part: this one is alone here.
        for metrics in self._unread:
            if not metrics.values.isfinite().all():
                raise FloatingPointError(
                    f"A loss or the norm of the gradients is not finite at "
                    f"iteration={metrics.iteration}!"
                )
        return {**super().state_dict(), "grad_scaler": self.grad_scaler.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state of `state_dict`; one without a loss scale leaves the scaler fresh."""
        super().load_state_dict(
            {**state_dict, "optimizer": with_kernels_of(self.optimizer, state_dict["optimizer"])}
        )
        # A disabled scaler saves nothing, and an enabled one refuses nothing.
        if state_dict["grad_scaler"]:
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])


def with_kernels_of(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """The state of an optimiser, to be stepped by the kernels of this one.

    torch keeps `fused` and `foreach` with the hyper-parameters, and would go on with what a
    checkpoint was made with.
    """
    groups = [{**group} for group in state["param_groups"]]
    for old, new in zip(groups, optimizer.param_groups):
        old.update({name: new[name] for name in ("fused", "foreach") if name in new})
    return {**state, "param_groups": groups}
