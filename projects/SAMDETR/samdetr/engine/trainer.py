"""The training step: mixed precision, clipping by the total norm, and an end when numbers fail."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from detectron2.engine import SimpleTrainer
from detectron2.engine.hooks import PeriodicWriter
from detectron2.utils import comm
from torch import Tensor, nn

from ..errors import ConfigError
from ..tensors import entries
from .faults import naming_batch
from .states import check_scaler, optimizer_state, whole_number

PRECISIONS = {"bfloat16": torch.bfloat16, "float16": torch.float16}  # of `train.amp.dtype`


class Metrics(NamedTuple):
    """What an iteration measured, still on the device."""

    iteration: int
    data_time: float  # seconds
    names: list[str]  # of the losses
    values: Tensor  # of the losses, and the norm of the gradients behind them


class Trainer(SimpleTrainer):
    """Detectron2's trainer for CPU and GPU, in full or mixed precision.

    To read a loss is to wait for the device. Losses and norms can be read for several iterations at
    once if the optimiser can leave out a step without asking the host, as torch's fused ones can.
    Others are read before every step, and those with a scaled loss, whose gradients may overflow.

    An iteration fails if a loss or the norm of the gradients is not finite. Its step is left out;
    from the first failure that is too many on, all steps are, until that is read and the run ends.

    Args:
        model: a list of dicts to weighted losses by name.
        data_loader: endless batches.
        optimizer: of the model's parameters.
        amp: `enabled`, and `dtype`, "bfloat16" or, on a GPU, "float16" with a scaled loss.
        clip_grad: `max_norm` of all gradients together, inf for none, and `norm_type`.
        metrics_period: iterations whose losses are read at once, where that can be.
        skip_nonfinite: iterations of the whole run that may fail; one more ends it.

    Attributes:
        skipped: iterations that have failed and are read.

    Raises:
        ConfigError: if `amp.dtype` is unknown or the device does not have it, if `metrics_period`
            is not positive, or if `skip_nonfinite` is negative.
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
        skip_nonfinite: int = 0,
    ):
        super().__init__(model, data_loader, optimizer)
        if metrics_period < 1:
            raise ConfigError(f"metrics_period is {metrics_period}, must be 1 or more")
        if skip_nonfinite < 0:
            raise ConfigError(f"train.skip_nonfinite is {skip_nonfinite}, must be 0 or more")
        device = next(model.parameters()).device
        self.device_type = device.type
        self.amp_enabled, self.amp_dtype = self._precision(**amp)
        self.clip_grad = clip_grad
        # float16 alone needs its loss scaled: bfloat16 has the range of float32.
        scaled = self.amp_enabled and self.amp_dtype is torch.float16
        self.grad_scaler = torch.amp.GradScaler(self.device_type, enabled=scaled)
        self.fused = all(group.get("fused") for group in optimizer.param_groups)
        self.metrics_period = metrics_period if self.fused and not scaled else 1
        self.skip_nonfinite = skip_nonfinite
        self.skipped = 0
        self._unread: list[Metrics] = []
        self._unread_failures = torch.zeros((), device=device)

    def _precision(self, enabled: bool, dtype: str) -> tuple[bool, torch.dtype]:
        if dtype not in PRECISIONS:
            raise ConfigError(f"train.amp.dtype is {dtype!r}, must be one of {sorted(PRECISIONS)}")
        if enabled and dtype == "float16" and self.device_type == "cpu":
            raise ConfigError("train.amp.dtype is 'float16', which needs a GPU; a CPU has bfloat16")
        return enabled, PRECISIONS[dtype]

    def run_step(self) -> None:
        """One iteration: batch, losses, gradients, metrics, step.

        Raises:
            ConfigError: if there are no more batches.
            FloatingPointError: if too many iterations have failed, this one or one whose metrics
                were not read yet. The weights are then still those before it.
            MemoryError: if there is no memory for the batch, which it describes.
        """
        start = time.perf_counter()
        try:
            data = next(self._data_loader_iter)
        except StopIteration as error:
            raise ConfigError(
                f"dataloader.train has ended before iteration={self.iter}: expected batches "
                "without end, as of samdetr.data.build_train_loader"
            ) from error
        data_time = time.perf_counter() - start
        with naming_batch(data, self.iter):
            self._step(data, data_time)

    def _step(self, data: list[dict[str, Any]], data_time: float) -> None:
        self.optimizer.zero_grad()  # first, so as not to hold them beside the activations
        with torch.autocast(self.device_type, self.amp_dtype, enabled=self.amp_enabled):
            losses = self.model(data)
        values = torch.stack([*losses.values()])
        total = self.grad_scaler.scale(values.sum())
        # One that is not finite makes all gradients so, and by the sum of gradients those of other
        # processes: all leave out the same steps, by the norm alone.
        total.backward(1 + 0 * total.detach())
        self.after_backward()
        norm = self._clip()
        left_out = self._leave_out(norm)
        values = torch.cat([values.detach(), norm[None]])
        self._unread.append(Metrics(self.iter, data_time, [*losses], values))
        if (self.iter + 1) % self.metrics_period == 0 or self.iter + 1 == self.max_iter:
            self.read_metrics()
        if self.fused or not left_out:
            self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def _leave_out(self, norm: Tensor) -> Tensor:
        """Whether the step is left out, which a fused optimiser is told."""
        failed = 1 - norm.isfinite().float()
        self._unread_failures = self._unread_failures + failed
        too_many = self._unread_failures > self.skip_nonfinite - self.skipped
        left_out = torch.maximum(failed, too_many.float())
        if self.fused:
            self.optimizer.found_inf = left_out
        return left_out

    def _clip(self) -> Tensor:
        """Clip the gradients, and return their norm before that."""
        self.grad_scaler.unscale_(self.optimizer)
        parameters = [x for group in self.optimizer.param_groups for x in group["params"]]
        return nn.utils.clip_grad_norm_(parameters, **self.clip_grad)

    def read_metrics(self) -> None:
        """Write the metrics not read yet, of any number of iterations, by one copy to the host.

        All processes take part.

        Raises:
            FloatingPointError: if more than `skip_nonfinite` iterations have failed.
        """
        unread, self._unread = self._unread, []
        self._unread_failures = torch.zeros_like(self._unread_failures)
        if not unread:
            return
        rows = torch.stack([x.values for x in unread]).cpu()
        for metrics, row in zip(unread, rows):
            failure = "" if row[-1].isfinite() else self._failure(metrics.names, row)
            if failure:
                self._count(failure, metrics.iteration)
                continue
            losses = dict(zip(metrics.names, row))
            self._write_metrics(losses, metrics.data_time, iter=metrics.iteration)
            if row[-1].isfinite():
                self.storage.put_scalar("grad_norm", float(row[-1]), cur_iter=metrics.iteration)

    def _failure(self, names: list[str], row: Tensor) -> str:
        """What is not finite in any process, all of which ask; "" if the scaler sees to it."""
        rows = comm.all_gather(row)
        wrong = [
            f"{name} is {float(value)}" + (f" in process {rank}" if len(rows) > 1 else "")
            for rank, values in enumerate(rows)
            for name, value in zip(names, values)
            if not value.isfinite()
        ]
        if not wrong and not self.grad_scaler.is_enabled():
            wrong = [f"the norm of the gradients is {float(row[-1])}"]
        return ", ".join(wrong)

    def _count(self, failure: str, iteration: int) -> None:
        """Count a failed iteration. Raises FloatingPointError if it is one too many."""
        failure = f"{failure} at iteration={iteration}"
        if self.skipped == self.skip_nonfinite:
            raise FloatingPointError(
                f"{failure}, and train.skip_nonfinite={self.skip_nonfinite} leaves out no "
                f"{'more' if self.skipped else 'iteration'}; a lower optimizer.lr may help"
            )
        self.skipped += 1
        logging.getLogger(__name__).warning(
            "%s: its step is left out, the %d. of at most %d (train.skip_nonfinite)",
            failure,
            self.skipped,
            self.skip_nonfinite,
        )
        self.storage.put_scalar(
            "skipped_iterations", self.skipped, smoothing_hint=False, cur_iter=iteration
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
        """Iteration, hooks, optimiser, loss scale, and the number of failed iterations.

        Raises:
            FloatingPointError: as `run_step`, so that no checkpoint is made of a failed iteration.
        """
        # Not by reading the metrics, in which all processes take part: this one is alone here.
        failed = [x.iteration for x in self._unread if not x.values[-1].isfinite()]
        if len(failed) > self.skip_nonfinite - self.skipped:
            raise FloatingPointError(
                f"a loss or the norm of the gradients is not finite at iteration={failed[-1]}"
            )
        return {
            **super().state_dict(),
            "grad_scaler": self.grad_scaler.state_dict(),
            "skipped": self.skipped + len(failed),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state of `state_dict`; one without a loss scale leaves the scaler fresh.

        Raises:
            ValueError: if it is none, or not one of this model and optimiser.
        """
        state = {"skipped": 0, **entries(state_dict, "trainer")}  # older checkpoints have none
        scale = state.get("grad_scaler")
        whole_number(state, "iteration")
        check_scaler(scale)
        optimizer = optimizer_state(self.optimizer, state.get("optimizer"))
        state["hooks"] = entries(state.get("hooks", {}), "hooks")
        super().load_state_dict({**state, "optimizer": with_kernels_of(self.optimizer, optimizer)})
        self.skipped = whole_number(state, "skipped")
        # A disabled scaler saves nothing, and an enabled one refuses nothing.
        if scale:
            self.grad_scaler.load_state_dict(scale)


def with_kernels_of(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """The state of an optimiser, to be stepped by the kernels of this one.

    torch keeps `fused` and `foreach` with the hyper-parameters, and would go on with what a
    checkpoint was made with.
    """
    groups = [{**group} for group in state["param_groups"]]
    for old, new in zip(groups, optimizer.param_groups):
        old.update({name: new[name] for name in ("fused", "foreach") if name in new})
    return {**state, "param_groups": groups}
