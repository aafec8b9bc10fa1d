"""What the numbers that a constructor is given may be."""

from __future__ import annotations


def at_least(least: int, **values: int) -> None:
    """Raise ValueError unless every value, known by its name, is `least` or more."""
    for name, value in values.items():
        if not value >= least:  # which NaN is not either
            raise ValueError(f"{name} is {value}, must be {least} or more")


def between(low: float, high: float, **values: float) -> None:
    """Raise ValueError unless every value, known by its name, lies in [low, high] and is finite."""
    for name, value in values.items():
        if not (low <= value <= high and abs(value) != float("inf")):
            limits = f"{low:g} or more" if high == float("inf") else f"in [{low:g}, {high:g}]"
            raise ValueError(f"{name} is {value}, must be {limits}")
