"""The error that data raise, and how it shows a value."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from typing import Any

from ..errors import DataError

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 200
_SHORT.maxlevel = 3
_MOST_CHARACTERS = 500


def shown(value: Any) -> str:
    """`repr` of a value that comes from a file: of a few lines at most, whatever its size."""
    text = _SHORT.repr(value)
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}..."


def wrong_entry(entry: str, field: str, value: Any, wanted: str) -> DataError:
    """The error about a field of an entry, which is named by its file and its place in it."""
    return DataError(f"{entry} has {field}={shown(value)}, not {wanted}")


def listed(names: Sequence[str], most: int = 10) -> str:
    """The first of several names, and how many there are."""
    rest = f", ... ({len(names)} in all)" if len(names) > most else ""
    return ", ".join(map(shown, names[:most])) + rest
