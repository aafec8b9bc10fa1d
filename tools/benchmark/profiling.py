"""Time by part of the model, by phase of a training step, and by operator.

Units: seconds. On a GPU the clock synchronises where a part begins or ends, so a part takes as long
as it would alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile

from .cases import Forward, TrainingStep
from .parts import measure_parts

MICRO = 1e-6


class Operator(NamedTuple):
    """Time of an operator, without the operators it calls."""

    name: str
    calls: int
    seconds: float
    share: float  # of the time of all operators


class Profile(NamedTuple):
    """Where the time of a contestant goes: parts and phases are medians over several rounds."""

    forward: dict[str, float]  # by part
    phases: dict[str, float]  # backward, clip and optimizer of a training step
    operators: list[Operator]  # one round under torch's profiler, which slows small operators


def profile_round(
    work: Forward | TrainingStep, clock: Callable[[], float]
) -> tuple[dict[str, float], dict[str, float]]:
    """Time one round: the forward by part, and the later phases of a training step."""
    if not isinstance(work, TrainingStep):
        return measure_parts(work.model, clock, work)[1], {}
    loss, parts = measure_parts(work.model, clock, work.loss)
    phases: dict[str, Callable[[], Any]] = {
        "backward": lambda: work.backward(loss),
        "clip": work.clip,
        "optimizer": work.update,
    }
    seconds = {}
    for name, phase in phases.items():
        start = clock()
        phase()
        seconds[name] = clock() - start
    return parts, seconds


def top_operators(work: Callable[[], Any], on_gpu: bool, count: int = 15) -> list[Operator]:
    """Run once under torch's profiler; return the operators with the longest own time."""
    activities = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * on_gpu]
    with profile(activities=activities) as recorded:
        work()
    found = recorded.key_averages()
    times = [x.self_device_time_total if on_gpu else x.self_cpu_time_total for x in found]
    whole = max(sum(times), 1)
    operators = [Operator(x.key, x.count, t * MICRO, t / whole) for x, t in zip(found, times)]
    return sorted(operators, key=lambda x: -x.seconds)[:count]


def profile_of(
    work: Forward | TrainingStep, clock: Callable[[], float], repeat: int = 3
) -> Profile:
    """Profile a contestant that is warmed up."""
    samples: tuple[defaultdict[str, list[float]], ...] = (defaultdict(list), defaultdict(list))
    for _ in range(repeat):
        for times, found in zip(samples, profile_round(work, clock)):
            for name, seconds in found.items():
                times[name].append(seconds)
    forward, phases = ({name: median(x) for name, x in times.items()} for times in samples)
    on_gpu = torch.device(work.setting.device).type == "cuda"
    return Profile(forward, phases, top_operators(work, on_gpu))
