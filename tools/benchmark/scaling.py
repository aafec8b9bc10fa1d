"""Scaling of cost along one axis at a time, with everything else as set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from samdetr.engine import ConfigError

from .cases import Case, Setting


class Point(NamedTuple):
    """A value of an axis, with the cases and setting to measure there."""

    value: str
    cases: list[Case]
    setting: Setting


def sizes(cases: Sequence[Case], setting: Setting) -> Iterator[Point]:
    """Image sizes from 0.5 to 1.5 times the chosen one."""
    for factor in (0.5, 0.75, 1.0, 1.25, 1.5):
        height, width = (round(x * factor) for x in setting.size)
        yield Point(f"{height}x{width}", [*cases], replace(setting, size=(height, width)))


def queries(cases: Sequence[Case], setting: Setting) -> Iterator[Point]:
    """Numbers of queries around the paper's 300, for models with `model.num_queries`."""
    for count in (100, 300, 600, 900):
        override = f"model.num_queries={count}"
        yield Point(
            str(count), [replace(x, overrides=(*x.overrides, override)) for x in cases], setting
        )


def batches(cases: Sequence[Case], setting: Setting) -> Iterator[Point]:
    """Batch sizes."""
    for batch in (1, 2, 4):
        yield Point(str(batch), [*cases], replace(setting, batch=batch))


def boxes(cases: Sequence[Case], setting: Setting) -> Iterator[Point]:
    """Objects per image, which matter to the training step alone."""
    if setting.mode != "step":
        raise ConfigError(f"--scale boxes needs --mode step, got {setting.mode}")
    for count in (1, 10, 30, 100):
        yield Point(str(count), [*cases], replace(setting, boxes=count))


AXES: dict[str, Callable[[Sequence[Case], Setting], Iterator[Point]]] = {
    "size": sizes,
    "queries": queries,
    "batch": batches,
    "boxes": boxes,
}
