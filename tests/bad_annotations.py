"""Strategies for boxes that annotation files contain, and an oracle of what training sees of them.

The oracle knows a box by its corners in the image, whatever the format of the file.
"""

import logging
import math
from contextlib import contextmanager

import torch
from hypothesis import strategies as st

from coco_files import SIZE
from samdetr.data import DetectionMapper, ResizeShortestEdge

SCALE = 2  # from the images of 40 x 30 to what the mapper returns
ODD_NUMBERS = [math.nan, math.inf, -math.inf, 5e-324, 1e-9, -0.0, 10**400, 39.9999999, 40, 30, 1e5]

numbers = st.one_of(st.sampled_from(ODD_NUMBERS), st.integers(-50, 50), st.floats(-60, 60))
sides = st.one_of(st.integers(1, 45), numbers)


def as_float(number):
    try:
        return float(number)
    except OverflowError:
        return math.inf


def corners(x, y, width, height):
    """Corners of a box as in COCO's files."""
    x, y, width, height = map(as_float, (x, y, width, height))
    return x, y, x + width, y + height


def seen(box):
    """The part of a box that is in the image, or None if training cannot use it."""
    left, top, right, bottom = map(as_float, box)
    if not all(map(math.isfinite, (left, top, right, bottom))):
        return None
    inside = max(left, 0), max(top, 0), min(right, SIZE[0]), min(bottom, SIZE[1])
    large = min(right - left, bottom - top, inside[2] - inside[0], inside[3] - inside[1]) >= 0.01
    return inside if large else None


def mapped(records):
    """The instances that training gets of each image."""
    size = ResizeShortestEdge(SCALE * SIZE[1], 1000)
    mapper = DetectionMapper(is_train=True, augmentations=[size], image_format="RGB")
    return [mapper(record)["instances"] for record in records]


def assert_boxes(records, expected):
    """Training gets these (box, class) of each image, in this order."""
    for one, pairs in zip(mapped(records), expected, strict=True):
        assert one.gt_classes.tolist() == [label for _, label in pairs]
        boxes = SCALE * torch.tensor([box for box, _ in pairs]).view(-1, 4)
        # Detectron2 adds x and width in single precision.
        torch.testing.assert_close(one.gt_boxes.tensor, boxes.float(), atol=0.04, rtol=0)


@contextmanager
def dropped():
    """A list of how many boxes each warning says are not trained on."""
    counts = []

    class Counter(logging.Handler):
        def emit(self, record):
            if "not trained on" in (message := record.getMessage()):
                counts.append(int(message.split()[0]))

    logger, handler = logging.getLogger("samdetr.data.datasets"), Counter(logging.WARNING)
    logger.addHandler(handler)
    try:
        yield counts
    finally:
        logger.removeHandler(handler)
