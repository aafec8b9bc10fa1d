"""Interleaved timing: every round runs each contestant once, so all see the same load."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

import torch


class Clock:
    """Seconds after the device has finished all queued work.

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
    """A callable to time."""

    name: str
    run: Callable[[], Any]
    prepare: Callable[[], Any] = lambda: None  # called before every run, not timed


def measure(
    contestants: Sequence[Contestant],
    repeat: int,
    warmup: int = 0,
    clock: Callable[[], float] | None = None,
) -> dict[str, list[float]]:
    """Time contestants in interleaved rounds; the one that starts rotates.

    Args:
        contestants: at least one, with unique names.
        repeat: timed rounds.
        warmup: untimed rounds before them.
        clock: returns seconds; by default a `Clock` of the CPU.

    Returns:
        Seconds of each timed round, by name.
    """
    clock = clock or Clock()
    seconds: dict[str, list[float]] = {x.name: [] for x in contestants}
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
    """Statistics of a contestant over the rounds."""

    median: float  # seconds
    minimum: float
    maximum: float
    ratio: float  # median over the rounds of its time divided by the first contestant's


def summarize(seconds: Mapping[str, Sequence[float]]) -> dict[str, Summary]:
    """Summarise the times from `measure`; ratios are to the first contestant."""
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
