"""Peak memory of inference or a training step, and of the activations saved for backward.

On a GPU the peak is that of torch's caching allocator. On a CPU it is the resident set size that
Linux reports, so each contestant runs in its own process; freed memory that the allocator has not
returned to the system counts.

Units: bytes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from samdetr.engine import ConfigError

from .cases import Case, Setting, TrainingStep, prepare

STEPS = 3  # from the second step on, gradients and optimizer state exist as well
STATUS = Path("/proc/self/status")


class Memory(NamedTuple):
    """Memory use of a contestant."""

    before: int  # after building model, optimizer and inputs
    peak: int  # during the steps
    saved: int  # activations kept for backward, without parameters

    @property
    def above(self) -> int:
        """Memory added by the steps, including gradients and optimizer state."""
        return self.peak - self.before


def resident(key: str) -> int:
    """Read a counter of /proc/self/status in bytes: VmRSS (current) or VmHWM (peak).

    Raises:
        ConfigError: if the system is not Linux.
    """
    try:
        lines = dict(x.split(":", 1) for x in STATUS.read_text().splitlines())
    except OSError as error:
        raise ConfigError(f"--memory on a CPU needs Linux and its {STATUS}: {error}") from error
    return 1024 * int(lines[key].split()[0])


def peak_of(run: Callable[[], Any], device: str = "cpu", steps: int = STEPS) -> tuple[int, int]:
    """Call `run` `steps` times; return the bytes in use before and at the peak."""
    if torch.device(device).type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        for _ in range(steps):
            run()
        return before, torch.cuda.max_memory_allocated()
    # Where this is forbidden, the peak includes building the model.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    before = resident("VmRSS")
    for _ in range(steps):
        run()
    return before, resident("VmHWM")


def saved_bytes(run: Callable[[], Any], model: nn.Module) -> int:
    """Return the bytes autograd saves during `run`, each storage once and without parameters.

    Activations inside checkpointed segments are not saved and not counted.
    """
    own = {x.untyped_storage().data_ptr() for x in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return x.detach()  # `x` itself would form a reference cycle with its graph

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        result = run()  # kept alive, so that no storage is reused
    del result
    return sum(size for place, size in kept.items() if place not in own)


def measure_memory(case: Case, setting: Setting, num_classes: int, threads: int) -> Memory:
    """Build and run a contestant in this process, which should be fresh."""
    torch.set_num_threads(threads)
    work = prepare(case, setting, num_classes)
    before, peak = peak_of(work, setting.device)
    saved = saved_bytes(work.loss, work.model) if isinstance(work, TrainingStep) else 0
    return Memory(before, peak, saved)


def memory_of(case: Case, setting: Setting, num_classes: int) -> Memory:
    """Measure the memory of a contestant in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        arguments = case, setting, num_classes, torch.get_num_threads()
        return pool.submit(measure_memory, *arguments).result()
