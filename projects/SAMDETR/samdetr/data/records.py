"""Detectron2's format of data sets, checked before a training step sees it.

Units: pixels.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

from detectron2.structures import BoxMode

from ..errors import printable
from .errors import DataError, wrong_entry
from .fields import (
    Rule,
    is_box,
    is_crowd,
    is_finite,
    is_id,
    is_integer,
    is_side,
    is_text,
    wrong_field,
)

Record = dict[str, Any]
"""An image, or one of its annotations, in Detectron2's format."""

LEAST_SIDE = 0.01
"""What must be visible of a box in either direction: of less, rounding may leave nothing."""
MOST_PIXELS = 2**17
"""The largest coordinate of a box. Detectron2 computes with 32 bits, which are coarser beyond."""

_SIZE: tuple[Rule, ...] = tuple(
    (x, is_side, "a whole number of pixels") for x in ("width", "height")
)


def check_records(name: str, records: list[Any], classes: int | None = None) -> None:
    """Checks all but whether boxes are usable.

    Args:
        name: of the data set.
        classes: number of categories, if known.

    Raises:
        DataError: names the data set, the image, the annotation and what would be right.
    """
    rules = _annotation_rules(classes)
    crowd: tuple[Rule, ...] = (("iscrowd", is_crowd, "0 or 1"),)
    ids = set()
    for index, record in enumerate(records):
        image = f"data set '{name}': image {index}"
        if fault := _wrong_in_image(record):
            raise wrong_entry(image, *fault)
        if record["image_id"] in ids:
            raise wrong_entry(image, "image_id", record["image_id"], "an id that no other has")
        ids.add(record["image_id"])
        for place, annotation in enumerate(record["annotations"]):
            if fault := wrong_field(annotation, rules, crowd):
                file = record["file_name"]
                raise wrong_entry(f"{image}, {file}: annotations[{place}]", *fault)


def _wrong_in_image(record: Record) -> tuple[str, Any, str] | None:
    # Whoever asks for one of the two sides takes the other for granted.
    sides = _SIZE if "width" in record or "height" in record else ()
    return wrong_field(
        record,
        (
            ("file_name", is_text, "text"),
            ("image_id", is_id, "an integer of up to 53 bits or text"),
            ("annotations", lambda value: isinstance(value, (list, tuple)), "a list"),
            *sides,
        ),
    )


def _annotation_rules(classes: int | None) -> tuple[Rule, ...]:
    modes = (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
    upper = 2**31 if classes is None else classes
    wanted = "an integer of 0 or more" if classes is None else f"an integer from 0 to {upper - 1}"
    named = "BoxMode.XYXY_ABS or BoxMode.XYWH_ABS"
    return (
        ("bbox", is_box, "four numbers"),
        ("bbox_mode", lambda value: is_integer(value) and value in modes, named),
        ("category_id", lambda value: is_integer(value) and 0 <= value < upper, wanted),
    )


def drop_unusable_boxes(name: str, records: list[Record]) -> list[Record]:
    """The images with the usable ones of their boxes; one warning says how many were dropped.

    Raises:
        DataError: there are boxes, and not one is usable.
    """
    faults: Counter[str] = Counter()
    usable, total, first = [], 0, ""
    for record in records:
        found = [box_fault(annotation, record) for annotation in record["annotations"]]
        total += len(found)
        if any(found):
            place = next(index for index, fault in enumerate(found) if fault)
            first = first or f"{record['file_name']}, annotations[{place}]"
            faults.update(fault for fault in found if fault)
            pairs = zip(record["annotations"], found, strict=True)
            record = {**record, "annotations": [kept for kept, fault in pairs if not fault]}
        usable.append(record)
    if faults:
        kinds = ", ".join(f"{count} {fault}" for fault, count in faults.items())
        message = f"data set '{name}', {total} boxes in all: {kinds}; the first in {first}"
        if sum(faults.values()) == total:
            raise DataError(f"No usable box. {message}")
        logging.getLogger(__name__).warning(printable(f"Unusable boxes are left out. {message}"))
    return usable


def box_fault(annotation: Record, record: Record) -> str | None:
    """What makes a box unusable; None for one that has an area and lies in its image in part."""
    if not all(map(is_finite, annotation["bbox"])):
        return "with NaN or infinity"
    left, top, right, bottom = map(float, annotation["bbox"])
    if annotation["bbox_mode"] == BoxMode.XYWH_ABS:
        right, bottom = left + right, top + bottom
    if max(map(abs, (left, top, right, bottom))) > MOST_PIXELS:
        return f"that reach farther than {MOST_PIXELS} pixels"
    if min(right - left, bottom - top) < LEAST_SIDE:
        return "without width or height"
    visible_width = min(right, record.get("width", right)) - max(left, 0)
    visible_height = min(bottom, record.get("height", bottom)) - max(top, 0)
    if min(visible_width, visible_height) < LEAST_SIDE:
        return "outside the image"
    return None
