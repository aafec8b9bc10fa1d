"""Measurements: from contestants and a setting to JSON-serialisable results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from samdetr.engine import ConfigError

from . import memory
from .cases import Case, Setting, count_classes, prepare
from .loading import Source
from .profiling import profile_of
from .scaling import AXES
from .timing import Clock, Contestant, measure, summarize

Result = dict[str, Any]


def contestants(
    configs: Sequence[str],
    overrides: Sequence[str] = (),
    against: Sequence[str] = (),
    compiled: Sequence[str] = (),
    trusted: bool = False,
) -> list[Case]:
    """Return the cases of a command line; ratios are to the first.

    Args:
        configs: config files.
        overrides: "key=value" for all of them.
        against: MODULE:FUNCTION names, each applied to the first config's model.
        compiled: submodules; every config runs once as it is and once with these compiled.
        trusted: see `engine.load_config`.

    Raises:
        ConfigError: if two cases have the same name.
    """
    plain = [Case(config, tuple(overrides), trusted=trusted) for config in configs]
    cases = [*plain]
    if compiled:
        cases += [replace(case, compiled=tuple(compiled)) for case in plain]
    cases += [replace(plain[0], against=function) for function in against]
    twice = [name for name, count in Counter(x.name for x in cases).items() if count > 1]
    if twice:
        raise ConfigError(f"contestants must have different names, but there are two {twice[0]}")
    return cases


def classes_of(cases: Sequence[Case], setting: Setting) -> int:
    """Return the smallest number of classes among the cases."""
    return min(count_classes(case.load(setting.device)) for case in cases)


def time_cases(
    cases: Sequence[Case], setting: Setting, repeat: int, warmup: int = 2, profiled: bool = False
) -> list[Result]:
    """Time all cases in interleaved rounds, in this process.

    Args:
        profiled: also profile each case, except compiled ones, whose modules run fused.

    Returns:
        For each case its `name`, the `seconds` of every round, the fields of `timing.Summary` and,
        if profiled, those of `profiling.Profile` as `profile`.
    """
    num_classes = classes_of(cases, setting)
    clock = Clock(setting.device)
    work = {x.name: prepare(x, setting, num_classes) for x in cases}
    seconds = measure([Contestant(*x) for x in work.items()], repeat, warmup, clock)
    results = summarized(seconds)
    for result, case in zip(results, cases):
        if profiled and not case.compiled:
            result["profile"] = profile_of(work[case.name], clock)._asdict()
    return results


def summarized(seconds: dict[str, list[float]]) -> list[Result]:
    """Combine the times and summary of each contestant."""
    return [
        {"name": name, "seconds": seconds[name], **summary._asdict()}
        for name, summary in summarize(seconds).items()
    ]


def time_loading(
    cases: Sequence[Case], source: Source, repeat: int, warmup: int = 1
) -> list[Result]:
    """Time the training loaders of all cases in interleaved rounds.

    Returns:
        As `time_cases`, with `images_per_second` of the median round.
    """
    with source.dataset(max(count_classes(x.load("cpu")) for x in cases)) as dataset:
        loadings = {x.name: source.loading(x.load("cpu"), dataset) for x in cases}
        runs = [Contestant(name, x, x.prepare) for name, x in loadings.items()]
        results = summarized(measure(runs, repeat, warmup))
        for result in results:
            images = loadings[result["name"]].images
            result["images_per_second"] = images / result["median"]
    return results


def scale(
    cases: Sequence[Case], setting: Setting, axes: Sequence[str], repeat: int, warmup: int = 1
) -> list[Result]:
    """Time all cases at every point of the given `scaling.AXES`.

    Returns:
        For each point its `axis`, `value`, and `results` as from `time_cases`.
    """
    return [
        {
            "axis": axis,
            "value": point.value,
            "results": time_cases(point.cases, point.setting, repeat, warmup),
        }
        for axis in axes
        for point in AXES[axis](cases, setting)
    ]


def add_memory(results: Sequence[Result], cases: Sequence[Case], setting: Setting) -> None:
    """Add the memory use of each case, measured in its own process, to its result."""
    num_classes = classes_of(cases, setting)
    for result, case in zip(results, cases):
        found = memory.memory_of(case, setting, num_classes)
        result["memory"] = {**found._asdict(), "above": found.above}
