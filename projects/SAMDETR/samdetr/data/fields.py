"""What the fields of images and annotations can be, in JSON, XML and Detectron2's dicts.

A bool is no number. Units: pixels.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from numbers import Integral, Real
from typing import Any

import numpy as np

Rule = tuple[str, Callable[[Any], bool], str]
"""A field, what its value has to fulfil, and how to say that."""


def wrong_field(
    entry: Any, required: Iterable[Rule], optional: Iterable[Rule] = ()
) -> tuple[str, Any, str] | None:
    """The first field of an entry that breaks its rule, its value, and what would be right."""
    fields = entry if isinstance(entry, dict) else {}
    for field, fits, wanted in required:
        if not fits(fields.get(field)):
            return field, fields.get(field), wanted
    for field, fits, wanted in optional:
        if field in fields and not fits(fields[field]):
            return field, fields[field], wanted
    return None


def is_number(value: Any) -> bool:
    """A number, finite or not."""
    return type(value) in (int, float) or (isinstance(value, Real) and not isinstance(value, bool))


def is_finite(value: Any) -> bool:
    """A number that is one as a float, too."""
    try:
        return is_number(value) and math.isfinite(value)
    except OverflowError:
        return False


def is_integer(value: Any) -> bool:
    """An integer that a 64-bit float holds: some evaluators keep ids as such."""
    return isinstance(value, Integral) and not isinstance(value, bool) and abs(int(value)) <= 2**53


def is_text(value: Any) -> bool:
    """Text that is not empty."""
    return isinstance(value, str) and bool(value)


def is_name(value: Any) -> bool:
    """Text without halves of surrogate pairs, which JSON can have and no font or terminal draws."""
    return is_text(value) and not any("\ud800" <= x <= "\udfff" for x in value)


def is_id(value: Any) -> bool:
    """The id of an image: COCO's are integers, Pascal VOC's are names."""
    return is_integer(value) or is_text(value)


def is_side(value: Any) -> bool:
    """Width or height of an image."""
    return is_finite(value) and 1 <= value < 2**31 and value == int(value)


def is_box(value: Any) -> bool:
    """Four numbers."""
    if not isinstance(value, (list, tuple, np.ndarray)):
        return False
    return len(value) == 4 and all(map(is_number, value))


def is_crowd(value: Any) -> bool:
    """The mark of a group of objects, 1, or of a single one, 0."""
    return isinstance(value, (bool, np.bool_, Real)) and value in (0, 1)


def is_area(value: Any) -> bool:
    """An area of 0 or more."""
    return is_finite(value) and value >= 0


def leads_out(name: str) -> bool:
    """If a file named relative to a folder is, or may be, elsewhere; links are the user's own."""
    return "://" in name or os.path.isabs(name) or os.pardir in name.split("/")
