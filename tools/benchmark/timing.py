"""Turn about: every contestant once in every round, so that all of them meet the same noise."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

import torch


class Clock:
    """Seconds, after everything that was asked of the device is done.

    Args:
        device: "cpu" or "cuda".
    """

    def __init__(self, device: str = "cpu"):
        self.on_gpu = torch.device(device).type == "cuda"

    def __call__(self) -> float:
        if self.on_gpu:
            torch.cuda.synchronize()
        return time.perf_counter()


class Contestant(NamedTuple):
    """Something to be timed."""

    name: str
    run: Callable[[], Any]
    prepare: Callable[[], Any] = lambda: None  # before every run, not timed


def measure(
    contestants: Sequence[Contestant],
    repeat: int,
    warmup: int = 0,
    clock: Callable[[], float] | None = None,
) -> dict[str, list[float]]:
    """Time contestants turn and turn about; in every round another of them is the first.

    Args:
        contestants: each with a name of its own.
        repeat: rounds that count.
        warmup: rounds before them.
        clock: seconds; the CPU's if there is none.

    Returns:
        By name the seconds of each round.

    Raises:
        ValueError: if there is nothing to measure, or a name is taken twice.
    """
    names = [x.name for x in contestants]
    if not names or len({*names}) < len(names):
        raise ValueError(f"contestants must be one or more with different names, got {names}")
    if repeat < 1 or warmup < 0:
        raise ValueError(f"repeat is {repeat} and warmup is {warmup}, must be 1 and 0 or more")
    clock = clock or Clock()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(warmup + repeat):
        first = turn % len(contestants)
        for contestant in (*contestants[first:], *contestants[:first]):
            contestant.prepare()
            start = clock()
            contestant.run()
            elapsed = clock() - start
            if turn >= warmup:
                seconds[contestant.name].append(elapsed)
    return seconds


class Summary(NamedTuple):
    """What the rounds say of a contestant."""

    median: float  # seconds
    minimum: float
    maximum: float
    ratio: float  # its time over that of the first contestant: the median over the rounds


def summarize(seconds: Mapping[str, Sequence[float]]) -> dict[str, Summary]:
    """The summary of each contestant that `measure` timed; ratios are to the first."""
    first = next(iter(seconds.values()))
    return {
        name: Summary(
            median(times),
            min(times),
            max(times),
            median(x / y for x, y in zip(times, first)),
        )
        for name, times in seconds.items()
    }
