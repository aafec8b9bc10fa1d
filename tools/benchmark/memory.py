"""Peak memory of forward or training step, and what autograd keeps for backward.

On a GPU the peak is that of torch's allocator. On a CPU it is that of the process's resident memory
as Linux counts it, so that each contestant gets a process of its own. Memory that an allocator has
not yet given back counts there, as it does for the user.

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

STEPS = 3  # from the second on there are old gradients and the optimiser's state as well
STATUS = Path("/proc/self/status")


class Memory(NamedTuple):
    """Memory of a contestant."""

    before: int  # with model, optimiser and inputs made, before the first step
    peak: int  # while it runs
    saved: int  # of that kept for backward, parameters not counted

    @property
    def above(self) -> int:
        """What running adds, gradients and the optimiser's state included."""
        return self.peak - self.before


def resident(key: str) -> int:
    """A figure of this process by its name in /proc, such as VmRSS (now) or VmHWM (at most).

    Raises:
        ConfigError: if the system has no such figures.
    """
    try:
        lines = dict(x.split(":", 1) for x in STATUS.read_text().splitlines())
    except OSError as error:
        raise ConfigError(f"--memory on a CPU needs Linux and its {STATUS}: {error}") from error
    return 1024 * int(lines[key].split()[0])


def peak_of(run: Callable[[], Any], device: str = "cpu", steps: int = STEPS) -> tuple[int, int]:
    """Bytes in use before and at most while something runs `steps` times."""
    if torch.device(device).type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        for _ in range(steps):
            run()
        return before, torch.cuda.max_memory_allocated()
    # Where this is forbidden the peak may be that of making the model, too much rather than little.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = resident("VmRSS")
    for _ in range(steps):
        run()
    return before, resident("VmHWM")


def saved_bytes(run: Callable[[], Any], model: nn.Module) -> int:
    """Bytes that autograd keeps while something runs: every memory once, parameters left out.

    What lies in a segment of activation checkpointing is not kept, and not counted.
    """
    own = {x.untyped_storage().data_ptr() for x in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return x.detach()  # itself would refer to the graph that refers to it

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        result = run()  # held, so that no memory is used again for another tensor
    del result
    return sum(size for place, size in kept.items() if place not in own)


def measure_memory(case: Case, setting: Setting, num_classes: int, threads: int) -> Memory:
    """Make and run a contestant in this process, which should be a fresh one."""
    torch.set_num_threads(threads)
    work = prepare(case, setting, num_classes)
    before, peak = peak_of(work, setting.device)
    saved = saved_bytes(work.loss, work.model) if isinstance(work, TrainingStep) else 0
    return Memory(before, peak, saved)


def memory_of(case: Case, setting: Setting, num_classes: int) -> Memory:
    """The memory of a contestant, from a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        arguments = case, setting, num_classes, torch.get_num_threads()
        return pool.submit(measure_memory, *arguments).result()
