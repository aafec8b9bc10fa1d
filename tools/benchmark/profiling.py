"""Where the time goes: the parts of a model, the phases of a training step, and the operators.

The forward of a part is timed by hooks around its modules, less the parts inside of it. Backward
has no modules: an operator's gradient carries the number of the operator, and torch's profiler
tells both, so that backward is shared out by the part that an operator ran in.

On a GPU the hooks wait for the device, so that a part takes what it would take alone.

Units: seconds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.autograd.profiler import record_function
from torch.profiler import ProfilerActivity, profile

from .cases import Forward, TrainingStep
from .flops import OTHER, part_of

# Told apart where `analysis.part_of` does not: the matcher's share of the losses, and the prior's
# of cross-attention.
DETAILS = ("criterion.matcher", "cross_attention.prior")
LABEL = "part: "
MICRO = 1e-6


class Operator(NamedTuple):
    """What an operator took, without those that it called."""

    name: str
    calls: int
    seconds: float
    share: float  # of all operators


class Profile(NamedTuple):
    """Where the time of a contestant goes.

    Forward and phases are medians of several rounds; backward and operators are of one round under
    torch's profiler, which makes small operators slower.
    """

    forward: dict[str, float]  # by part
    phases: dict[str, float]  # backward, clip and update, of a training step
    backward: dict[str, float]  # by part
    operators: list[Operator]


def part_name(module: str) -> str:
    """The part that a module belongs to, by the module's name."""
    part = part_of(module)
    for detail in DETAILS:
        if f".{module}.".count(f".{detail}."):
            return f"{part}.{detail.rpartition('.')[2]}"
    return part


def outermost(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules in which another part begins than that of the module around, with the part."""
    inside: dict[str, str | None] = {}  # the part that the module of a name runs in
    for name, module in model.named_modules():
        part, outer = part_name(name), inside.get(name.rpartition(".")[0])
        if isinstance(module, (nn.ModuleList, nn.ModuleDict)):  # are never called themselves
            inside[name] = outer
            continue
        inside[name] = part
        if part != outer:
            yield part, module


@contextmanager
def around(
    model: nn.Module, enter: Callable[[str], Any], leave: Callable[[str], Any]
) -> Iterator[None]:
    """Have functions called with the name of a part whenever the model enters and leaves it."""
    hooks = []
    for part, module in outermost(model):
        hooks.append(module.register_forward_pre_hook(lambda *_, part=part: enter(part)))
        hooks.append(module.register_forward_hook(lambda *_, part=part: leave(part)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class PartTimer:
    """Adds up the time in each part of a model.

    Args:
        model: any module.
        clock: seconds.

    Attributes:
        seconds: by part, without that of the parts inside of it.
    """

    def __init__(self, model: nn.Module, clock: Callable[[], float]):
        self.model = model
        self.clock = clock
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._running: list[str] = []
        self._since = 0.0

    def run(self, function: Callable[[], Any]) -> Any:
        """Call something that calls the model."""
        with around(self.model, self._enter, self._leave):
            return function()

    def _enter(self, part: str) -> None:
        self._pass()
        self._running.append(part)

    def _leave(self, part: str) -> None:
        self._pass()
        self._running.pop()

    def _pass(self) -> None:
        now = self.clock()
        if self._running:
            self.seconds[self._running[-1]] += now - self._since
        self._since = now


def profile_parts(
    work: Forward | TrainingStep, clock: Callable[[], float], repeat: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Forward by part and the other phases of a step: medians of `repeat` rounds."""
    parts: dict[str, list[float]] = defaultdict(list)
    phases: dict[str, list[float]] = defaultdict(list)

    def timed(name: str, phase: Callable[..., Any], *arguments: Any) -> None:
        start = clock()
        phase(*arguments)
        phases[name].append(clock() - start)

    for _ in range(repeat):
        timer = PartTimer(work.model, clock)
        if isinstance(work, TrainingStep):
            loss = timer.run(work.loss)
            timed("backward", work.backward, loss)
            timed("clip", work.clip)
            timed("optimizer", work.update)
        else:
            timer.run(work)
        for name, seconds in timer.seconds.items():
            parts[name].append(seconds)
    return (*({name: median(x) for name, x in y.items()} for y in (parts, phases)),)  # type: ignore


class Ranges:
    """Ranges of torch's profiler around the parts of a model."""

    def __init__(self) -> None:
        self._open: list[record_function] = []

    def enter(self, part: str) -> None:
        self._open.append(record_function(LABEL + part).__enter__())

    def leave(self, part: str) -> None:
        self._open.pop().__exit__(None, None, None)


def record(work: Forward | TrainingStep) -> profile:
    """One round under torch's profiler, with a range for each part."""
    ranges = Ranges()
    activities = [ProfilerActivity.CPU]
    if torch.device(work.setting.device).type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as recorded:
        if isinstance(work, TrainingStep):
            with around(work.model, ranges.enter, ranges.leave):
                loss = work.loss()
            work.backward(loss)
            work.clip()
            work.update()
        else:
            with around(work.model, ranges.enter, ranges.leave):
                work()
    return recorded


def backward_by_part(recorded: profile, on_gpu: bool = False) -> dict[str, float]:
    """Seconds of backward, by the part whose forward made the gradients."""
    prefix = "autograd::engine::evaluate_function"
    events = sorted(recorded.events(), key=lambda x: x.time_range.start)
    part: dict[int, str] = {}  # of an operator's number; the last to have it made the gradient
    seconds: defaultdict[str, float] = defaultdict(float)
    for event in events:
        if event.name.startswith(prefix):
            time = event.device_time_total if on_gpu else event.cpu_time_total
            seconds[part.get(event.sequence_nr, OTHER)] += time * MICRO
        elif event.sequence_nr >= 0 and (found := range_of(event)):
            part[event.sequence_nr] = found
    return dict(seconds)


def range_of(event: Any) -> str | None:
    """The innermost part around an event of the profiler."""
    while event is not None and not event.name.startswith(LABEL):
        event = event.cpu_parent
    return event.name.removeprefix(LABEL) if event is not None else None


def top_operators(recorded: profile, on_gpu: bool = False, count: int = 15) -> list[Operator]:
    """The operators that took the most time themselves."""
    found = [x for x in recorded.key_averages() if not x.key.startswith(LABEL)]
    times = [x.self_device_time_total if on_gpu else x.self_cpu_time_total for x in found]
    whole = max(sum(times), 1)
    operators = [Operator(x.key, x.count, t * MICRO, t / whole) for x, t in zip(found, times)]
    return sorted(operators, key=lambda x: -x.seconds)[:count]


def profile_of(
    work: Forward | TrainingStep, clock: Callable[[], float], repeat: int = 3
) -> Profile:
    """Profile a contestant that has run before."""
    forward, phases = profile_parts(work, clock, repeat)
    recorded = record(work)
    on_gpu = torch.device(work.setting.device).type == "cuda"
    return Profile(
        forward, phases, backward_by_part(recorded, on_gpu), top_operators(recorded, on_gpu)
    )
