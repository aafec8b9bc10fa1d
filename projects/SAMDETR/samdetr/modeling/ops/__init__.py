"""Kernels of the model, each behind one function with a plain twin that reads like its equation.

A kernel is chosen by the device of its inputs, unless `backends` names one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

AUTO = "auto"  # the fastest kernel for the device
CHOICES = {
    "attend": (AUTO, "tiled", "plain"),
    "roi_align": (AUTO, "embedding_bag", "products", "operator"),
    "deformable": (AUTO, "embedding_bag", "triton", "grid"),
}
_selected = dict.fromkeys(CHOICES, AUTO)


@contextmanager
def backends(
    attend: str | None = None, deformable: str | None = None, roi_align: str | None = None
) -> Iterator[None]:
    """Context manager that selects kernels by name, in all threads of the process.

        with backends(attend="plain", deformable="grid", roi_align="operator"):
            model(images)

    Args:
        attend, deformable, roi_align: one of `CHOICES`; None leaves a choice as it is.

    Raises:
        ValueError: for an unknown name.
    """
    names = {"attend": attend, "deformable": deformable, "roi_align": roi_align}
    given = {function: name for function, name in names.items() if name is not None}
    for function, name in given.items():
        if name not in CHOICES[function]:
            choices = ", ".join(CHOICES[function])
            raise ValueError(f"{function} is {name!r}, must be one of {choices}")
    before = dict(_selected)
    _selected.update(given)
    try:
        yield
    finally:
        _selected.update(before)


def selected(function: str, default: str = AUTO) -> str:
    """Name of the kernel selected for a function, or the default if that is "auto"."""
    name = _selected[function]
    return default if name == AUTO else name
