"""Values that an annotation should not have, and what has to hold of a data set that loads anyway.

The oracles know a box by its corners in the image, whatever the format of the file.
"""

import logging
import math
from contextlib import contextmanager

import pytest
import torch
from hypothesis import strategies as st

from coco_files import SIZE
from samdetr.data import DataError, DetectionMapper, ResizeShortestEdge

SCALE = 2  # from the images of 40 x 30 to what the mapper makes of them
ODD_NUMBERS = [math.nan, math.inf, -math.inf, 1e308, -1e308, 1.5e308, 5e-324, 1e-9, -0.0, 10**400]
ODD_NUMBERS += [-(2**63), 2**64, 131072, -131073, 16777217.0, 39.9999999, 40, 30, 1e5]
ODD_OBJECTS = [
    "",
    "12",
    "NaN",
    "a\0b",
    "\ud800",
    True,
    False,
    None,
    [],
    {},
    [[]],
    [1, 2, 3],
    [0] * 5,
]
ODD_OBJECTS += [["5", 5, 10, 10], [True, 5, 10, 10], [None] * 4, {"a": [1]}, "x" * 10_000]

numbers = st.one_of(
    st.sampled_from(ODD_NUMBERS),
    st.integers(-50, 50),
    st.floats(-60, 60),
    st.floats(),
)
sides = st.one_of(st.integers(1, 45), numbers)
objects = st.one_of(
    st.sampled_from(ODD_OBJECTS),
    numbers,
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda x: st.lists(x, max_size=4) | st.dictionaries(st.text(max_size=3), x, max_size=3),
        max_leaves=6,
    ),
)


def corners(x, y, width, height):
    """Of a box as in COCO's files; NaN where a number is beyond all floats."""
    try:
        return x, y, float(x) + float(width), float(y) + float(height)
    except OverflowError:
        return (math.nan,) * 4


def seen(box):
    """The part of a box that is in the image, or None if training cannot use it."""
    try:
        left, top, right, bottom = map(float, box)
    except OverflowError:
        return None
    if not all(abs(x) <= 131072 for x in (left, top, right, bottom)):  # NaN is not
        return None
    inside = max(left, 0), max(top, 0), min(right, SIZE[0]), min(bottom, SIZE[1])
    large = min(right - left, bottom - top, inside[2] - inside[0], inside[3] - inside[1]) >= 0.01
    return inside if large else None


def mapped(records):
    """What training gets of each image."""
    size = ResizeShortestEdge(SCALE * SIZE[1], 1000)
    mapper = DetectionMapper(is_train=True, augmentations=[size], image_format="RGB")
    return [mapper(record)["instances"] for record in records]


def assert_trainable(records, classes):
    """Every box that was loaded reaches training, with an area and a class of the model."""
    for record in records:
        if (record["width"], record["height"]) != SIZE:
            with pytest.raises(ValueError, match="Mismatched image shape"):
                mapped([record])
    records = [x for x in records if (x["width"], x["height"]) == SIZE]
    instances = mapped(records)
    kept = [[x for x in record["annotations"] if not x.get("iscrowd")] for record in records]
    assert list(map(len, instances)) == list(map(len, kept))
    for one in instances:
        left, top, right, bottom = one.gt_boxes.tensor.unbind(-1)
        assert one.gt_boxes.tensor.isfinite().all()
        assert (left >= 0).all() and (left < right).all() and (right <= SCALE * SIZE[0]).all()
        assert (top >= 0).all() and (top < bottom).all() and (bottom <= SCALE * SIZE[1]).all()
        assert ((one.gt_classes >= 0) & (one.gt_classes < classes)).all()


def assert_boxes(records, expected):
    """Training gets these (box, class) of each image, in this order."""
    for one, pairs in zip(mapped(records), expected, strict=True):
        assert one.gt_classes.tolist() == [label for _, label in pairs]
        boxes = SCALE * torch.tensor([box for box, _ in pairs]).view(-1, 4)
        # Detectron2 adds x and width in single precision.
        torch.testing.assert_close(one.gt_boxes.tensor, boxes.float(), atol=0.04, rtol=0)


@contextmanager
def dropped():
    """A list that will have how many boxes were left out, by the warnings about it."""
    counts = []

    class Counter(logging.Handler):
        def emit(self, record):
            kinds = record.getMessage().split(" boxes in all: ")[1].split("; the first")[0]
            counts.append(sum(int(kind.split()[0]) for kind in kinds.split(", ")))

    logger, handler = logging.getLogger("samdetr.data.records"), Counter(logging.WARNING)
    logger.addHandler(handler)
    try:
        yield counts
    finally:
        logger.removeHandler(handler)


def outcome(load):
    """What was loaded and how many boxes were left out, or the error; any other error is a fault.

    Returns: (records, number), or (None, the sentence of a DataError).
    """
    with dropped() as counts:
        try:
            return load(), sum(counts)
        except DataError as error:
            assert len(str(error)) < 4000
            return None, str(error)
