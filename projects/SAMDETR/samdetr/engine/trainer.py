"""The training step: mixed precision, gradient clipping, and what happens to non-finite losses.

Methods of Detectron2's trainers that are private and used here as its own subclasses use them:
`_data_loader_iter`, `_write_metrics` and `_hooks`.
"""

from __future__ import annotations

import inspect
import itertools
import logging
import math
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from detectron2.engine import SimpleTrainer
from detectron2.engine.hooks import PeriodicWriter
from detectron2.utils import comm
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

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
        accumulate: batches per step. Their gradients add up to those of one batch of all their
            images; for models without the argument `step_counts` of `SAMDETR.forward`, to the mean
            of their gradients.

    Attributes:
        skipped: number of failed iterations that have been read.

    Raises:
        ConfigError: if `amp.dtype` is unknown or not available on the device, if `metrics_period`
            or `accumulate` is not positive, or if `skip_nonfinite` is negative.
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
        accumulate: int = 1,
    ):
        super().__init__(model, data_loader, optimizer)
        if metrics_period < 1:
            raise ConfigError(f"metrics_period is {metrics_period}, must be 1 or more")
        if accumulate < 1:
            raise ConfigError(f"train.accumulate is {accumulate}, must be 1 or more")
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
        self.accumulate = accumulate
        inner = model.module if isinstance(model, DistributedDataParallel) else model
        self._takes_counts = "step_counts" in inspect.signature(inner.forward).parameters
        self.skipped = 0
        self._next_rates: list[float] = []  # after the checkpoint that the run continues from
        self._unread: list[Metrics] = []
        self._unread_failures = torch.zeros((), device=device)

    def _precision(self, enabled: bool, dtype: str) -> tuple[bool, torch.dtype]:
        if dtype not in PRECISIONS:
            raise ConfigError(f"train.amp.dtype is {dtype!r}, must be one of {sorted(PRECISIONS)}")
        if enabled and dtype == "float16" and self.device_type == "cpu":
            raise ConfigError("train.amp.dtype is 'float16', which needs a GPU; a CPU has bfloat16")
        return enabled, PRECISIONS[dtype]

    def run_step(self) -> None:
        """Run one iteration: batches, losses, gradients, metrics, step.

        Raises:
            ConfigError: if the loader has no more batches.
            FloatingPointError: if too many iterations have failed, this one or earlier ones whose
                metrics were not read yet. The weights are then those before the failure.
            MemoryError: if a batch, which it describes, does not fit into memory.
        """
        start = time.perf_counter()
        batches = list(itertools.islice(self._data_loader_iter, self.accumulate))
        if len(batches) < self.accumulate:
            raise ConfigError(
                f"dataloader.train ended before iteration={self.iter}: expected endless batches, "
                "such as those of samdetr.data.build_train_loader"
            )
        self._step(batches, time.perf_counter() - start)

    def _step(self, batches: list[list[dict[str, Any]]], data_time: float) -> None:
        self.optimizer.zero_grad()  # first: gradients need no memory beside the activations
        names, losses = self._backward(batches)
        self.after_backward()
        norm = self._clip()
        skip = self._skip(norm)
        self._unread.append(Metrics(self.iter, data_time, names, torch.cat([losses, norm[None]])))
        if (self.iter + 1) % self.metrics_period == 0 or self.iter + 1 == self.max_iter:
            self.read_metrics()
        if self.fused or not skip:
            self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def _backward(self, batches: list[list[dict[str, Any]]]) -> tuple[list[str], Tensor]:
        """Add up the gradients of the batches; return the names of the losses and their sums."""
        options: dict[str, Any] = {}
        if self.accumulate > 1 and self._takes_counts:
            options["step_counts"] = [len(x["instances"]) for batch in batches for x in batch]
        share = 1.0 if self.accumulate == 1 or options else 1 / self.accumulate
        names, sums = list[str](), torch.zeros(())
        for number, batch in enumerate(batches, 1):
            waits = number < self.accumulate and isinstance(self.model, DistributedDataParallel)
            with naming_batch(batch, self.iter), self.model.no_sync() if waits else nullcontext():
                with torch.autocast(self.device_type, self.amp_dtype, enabled=self.amp_enabled):
                    losses = self.model(batch, **options)
                values = torch.stack([*losses.values()])
                total = self.grad_scaler.scale(values.sum() * share)
                # A non-finite loss makes all gradients non-finite, and through DDP's sum also
                # those of other processes: the gradient norm tells all to skip the same steps.
                total.backward(1 + 0 * total.detach())
            names, sums = [*losses], sums + values.detach() * share
        return names, sums

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
        """Continue from a state of `state_dict`, with this run's learning rates and other options.

        Where they differ from those of the state, the log names both.

        Raises:
            ValueError: if the state is of other parameters.
        """
        saved, own = state_dict["optimizer"]["param_groups"], self.optimizer.param_groups
        sizes = [[len(group["params"]) for group in groups] for groups in (saved, own)]
        if sizes[0] != sizes[1]:
            raise ValueError(
                f"the optimizer of the checkpoint has groups of {sizes[0]} tensors and this run "
                f"has {sizes[1]}: train.freeze and optimizer.params cannot change by --resume"
            )
        groups = [
            {**old, **new, "initial_lr": new["lr"], "params": old["params"]}
            for old, new in zip(saved, own)
        ]
        changes = {
            f"{name} {old[name]} -> {new[name]}": None
            for old, new in zip(saved, groups)
            for name in ("initial_lr", "weight_decay", "betas", "momentum")
            if name in old and name in new and old[name] != new[name]
        }
        if changes:
            logging.getLogger(__name__).info("The optimizer changes: %s", ", ".join(changes))
        self._next_rates = [group["lr"] for group in saved]
        optimizer = {**state_dict["optimizer"], "param_groups": groups}
        super().load_state_dict({**state_dict, "optimizer": optimizer})
        self.skipped = state_dict.get("skipped", 0)  # older checkpoints have none
        if scale := state_dict.get("grad_scaler"):  # empty from a disabled scaler
            self.grad_scaler.load_state_dict(scale)

    def before_train(self) -> None:
        """Run `before_train` of all hooks, and log which learning rates the resumption changes."""
        super().before_train()
        rates = [group["lr"] for group in self.optimizer.param_groups]
        text = "The learning rate at iteration %d is %g; the checkpoint's schedule has %g"
        for old, new in dict.fromkeys(zip(self._next_rates, rates)):
            if not math.isclose(old, new):
                logging.getLogger(__name__).info(text, self.iter, new, old)


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
