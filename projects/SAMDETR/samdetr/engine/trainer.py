"""The training step: mixed precision, gradient clipping, and what happens to non-finite losses.

Methods of Detectron2's trainers that are private and used here as its own subclasses use them:
`_data_loader_iter`, `_write_metrics` and `_hooks`.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from detectron2.engine import SimpleTrainer
from detectron2.engine.hooks import PeriodicWriter
from detectron2.utils import comm
from torch import Tensor, nn

from ..errors import ConfigError

PRECISIONS = {"bfloat16": torch.bfloat16, "float16": torch.float16}  # of `train.amp.dtype`


class Metrics(NamedTuple):
    """Measurements of an iteration, still on the device."""

    iteration: int
    data_time: float  # seconds
    names: list[str]  # of the losses
    values: Tensor  # the losses, followed by the norm of the gradients


class Trainer(SimpleTrainer):
    """Detectron2's trainer for CPU and GPU, in full or mixed precision.

    Reading a loss waits for the device. If the optimiser is fused, it can skip a step without
    asking the host, and the metrics of several iterations are read together. Otherwise, and with a
    scaled loss, they are read before every step.

    An iteration fails if a loss or the gradient norm is not finite; its step is skipped. From the
    first failure beyond `skip_nonfinite` on all steps are skipped until the metrics are read and
    the run ends.

    Args:
        model: maps a list of dicts to weighted losses by name.
        data_loader: endless batches.
        optimizer: of the model's parameters.
        amp: `enabled`, and `dtype`: "bfloat16", or on a GPU "float16" with a scaled loss.
        clip_grad: `max_norm` of all gradients together, inf for none, and `norm_type`.
        metrics_period: iterations whose metrics are read together, where that is possible.
        skip_nonfinite: iterations of the whole run that may fail; one more ends it.

    Attributes:
        skipped: number of failed iterations that have been read.

    Raises:
        ConfigError: if `amp.dtype` is unknown or not available on the device, if `metrics_period`
            is not positive, or if `skip_nonfinite` is negative.
    """

    iter: int  # Detectron2's trainers are untyped

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
        self.amp_enabled, self.amp_dtype = self._precision(amp["enabled"], amp["dtype"])
        self.clip_grad = clip_grad
        # Only float16 needs a scaled loss: bfloat16 has the range of float32.
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
        """Run one iteration: batch, losses, gradients, metrics, step.

        Raises:
            ConfigError: if the loader has no more batches.
            FloatingPointError: if too many iterations have failed, this one or earlier ones whose
                metrics were not read yet. The weights are then those before the failure.
            MemoryError: if the batch, which it describes, does not fit into memory.
        """
        start = time.perf_counter()
        try:
            data = next(self._data_loader_iter)
        except StopIteration as error:
            raise ConfigError(
                f"dataloader.train ended before iteration={self.iter}: expected endless batches, "
                "such as those of samdetr.data.build_train_loader"
            ) from error
        data_time = time.perf_counter() - start
        with naming_batch(data, self.iter):
            self._step(data, data_time)

    def _step(self, data: list[dict[str, Any]], data_time: float) -> None:
        self.optimizer.zero_grad()  # first: gradients need no memory beside the activations
        with torch.autocast(self.device_type, self.amp_dtype, enabled=self.amp_enabled):
            losses = self.model(data)
        values = torch.stack([*losses.values()])
        total = self.grad_scaler.scale(values.sum())
        # A non-finite loss makes all gradients non-finite, and through DDP's sum also those of
        # other processes: the gradient norm alone tells all of them to skip the same steps.
        total.backward(1 + 0 * total.detach())
        self.after_backward()
        norm = self._clip()
        skip = self._skip(norm)
        values = torch.cat([values.detach(), norm[None]])
        self._unread.append(Metrics(self.iter, data_time, [*losses], values))
        if (self.iter + 1) % self.metrics_period == 0 or self.iter + 1 == self.max_iter:
            self.read_metrics()
        if self.fused or not skip:
            self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def _skip(self, norm: Tensor) -> Tensor:
        """Return 1 if the step is to be skipped, else 0; a fused optimiser reads it itself."""
        failed = 1 - norm.isfinite().float()
        self._unread_failures = self._unread_failures + failed
        too_many = self._unread_failures > self.skip_nonfinite - self.skipped
        skip = torch.maximum(failed, too_many.float())
        if self.fused:
            self.optimizer.found_inf = skip
        return skip

    def _clip(self) -> Tensor:
        """Clip the gradients, and return their norm before clipping."""
        self.grad_scaler.unscale_(self.optimizer)
        parameters = [x for group in self.optimizer.param_groups for x in group["params"]]
        return nn.utils.clip_grad_norm_(parameters, **self.clip_grad)

    def read_metrics(self) -> None:
        """Copy the unread metrics of all iterations to the host at once, and store them.

        All processes have to call it together.

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
        """Return what is not finite in which process; "" for an overflow the scaler handles."""
        rows = comm.all_gather(row)
        wrong = [
            f"{name} is {float(value)}" + (f" in process {rank}" if len(rows) > 1 else "")
            for rank, values in enumerate(rows)
            for name, value in zip(names, values)
            if not value.isfinite()
        ]
        if not wrong and not self.grad_scaler.is_enabled():
            wrong = [f"the gradient norm is {float(row[-1])}"]
        return ", ".join(wrong)

    def _count(self, failure: str, iteration: int) -> None:
        """Count a failed iteration. Raises FloatingPointError if it is one too many."""
        failure = f"{failure} at iteration={iteration}"
        if self.skipped == self.skip_nonfinite:
            raise FloatingPointError(
                f"{failure}, and train.skip_nonfinite={self.skip_nonfinite} allows no "
                f"{'more' if self.skipped else 'such iteration'}; a lower optimizer.lr may help"
            )
        self.skipped += 1
        logging.getLogger(__name__).warning(
            "%s: its step is skipped, number %d of at most %d (train.skip_nonfinite)",
            failure,
            self.skipped,
            self.skip_nonfinite,
        )
        self.storage.put_scalar(
            "skipped_iterations", self.skipped, smoothing_hint=False, cur_iter=iteration
        )

    def after_train(self) -> None:
        """Run `after_train` of all hooks after a finished run, of the writers after a failed one.

        To Detectron2's hooks a failure in the last iteration looks like success: they would
        evaluate the model and keep it as the best.
        """
        if self.iter >= self.max_iter:
            self.iter = self.max_iter  # it is one more if there was nothing left to train
            super().after_train()
            return
        for hook in self._hooks:
            if isinstance(hook, PeriodicWriter):
                hook.after_train()
        self.concurrent_executor.shutdown()

    def state_dict(self) -> dict[str, Any]:
        """Return iteration, hooks, optimiser, loss scale and number of failed iterations.

        Read the metrics before: a checkpoint must not hold a failed iteration.
        """
        scaler = self.grad_scaler.state_dict()
        return {**super().state_dict(), "grad_scaler": scaler, "skipped": self.skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a state of `state_dict`, with the optimiser kernels of this run."""
        # torch saves `fused` and `foreach` with the hyper-parameters.
        groups = state_dict["optimizer"]["param_groups"]
        groups = [
            {**old, **{name: new[name] for name in ("fused", "foreach") if name in new}}
            for old, new in zip(groups, self.optimizer.param_groups, strict=True)
        ]
        optimizer = {**state_dict["optimizer"], "param_groups": groups}
        super().load_state_dict({**state_dict, "optimizer": optimizer})
        self.skipped = state_dict.get("skipped", 0)  # older checkpoints have none
        if scale := state_dict.get("grad_scaler"):  # empty from a disabled scaler
            self.grad_scaler.load_state_dict(scale)


@contextmanager
def naming_batch(batch: Sequence[dict[str, Any]], iteration: int) -> Iterator[None]:
    """Describe the batch in a MemoryError if it does not fit into memory."""
    try:
        yield
    except RuntimeError as error:
        # torch has no exception class of its own for a CPU.
        if not isinstance(error, torch.OutOfMemoryError) and "CPUAllocator" not in str(error):
            raise
        text = re.sub(r"^\[enforce fail[^]]*\] .*?(?=DefaultCPUAllocator)", "", str(error))
        sizes = [tuple(record["image"].shape[-2:]) for record in batch]
        padded = "x".join(str(max(lengths)) for lengths in zip(*sizes))
        objects = sum(len(record["instances"]) for record in batch if "instances" in record)
        raise MemoryError(
            f"out of memory at iteration={iteration} with {len(batch)} images of "
            f"{', '.join(f'{h}x{w}' for h, w in sizes)} (height x width), padded to {padded}, with "
            f"{objects} objects ({' '.join(text.split())[:200]}). Less is needed by a smaller "
            "dataloader.train.total_batch_size, by smaller images, by train.amp.enabled=true, and "
            "by model.decoder.layer._target_=samdetr.modeling.RecomputedDecoderLayer"
        ) from error
