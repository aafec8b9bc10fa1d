"""How far what an exported file finds is from what the model finds.

Two scores that are equal but for rounding may change places, so detections are compared as sets:
each is assigned to a pair of query and class of its own, those with the least differences.

Shapes: N queries, K classes, D detections, all of one image or with B images in front.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

SCORE_TOLERANCE = 1e-3
PIXEL_TOLERANCE = 0.1
OTHER_CLASS = 1e9  # times the tolerance


class Pairs(NamedTuple):
    """What the model says of all pairs of query and class."""

    boxes: Tensor  # (…, N, 4) corners, fractions of the image
    scores: Tensor  # (…, N, K)
    extent: Tensor  # (…, 4) width, height, width, height of the image in pixels


class Difference(NamedTuple):
    """The largest differences."""

    scores: float
    pixels: float

    @classmethod
    def largest(cls, differences: Sequence[Difference]) -> Difference:
        """Of several."""
        return cls(*map(max, zip(*differences)))

    def __bool__(self) -> bool:
        """If it is too large, or not a number."""
        return not (self.scores <= SCORE_TOLERANCE and self.pixels <= PIXEL_TOLERANCE)

    def __str__(self) -> str:
        return f"scores differ by {self.scores:.1e}, boxes by {self.pixels:.1e} pixels"


def matched(boxes: Tensor, scores: Tensor, classes: Tensor, pairs: Pairs, count: int) -> Difference:
    """The least differences of the detections of one image and the pairs of the model.

    Args:
        boxes, scores, classes: (D, 4), (D) and (D) of the detections.
        pairs: of the image.
        count: how many detections there should be, fewer where N * K is less.

    Returns:
        Also of the scores in order; infinite where detections are missing, have an unknown class
        or are not numbers.
    """
    wanted = pairs.scores.flatten().sort(descending=True).values[:count]
    num_classes = pairs.scores.shape[-1]
    known = ((classes >= 0) & (classes < num_classes)).all()
    if len(scores) != len(wanted) or not (known and boxes.isfinite().all()):
        return Difference(torch.inf, torch.inf)
    # A pair that is far from the worst detection in score cannot be one of them.
    near = (pairs.scores >= wanted[-1] - 2 * SCORE_TOLERANCE).flatten().nonzero()[:, 0]
    query, kind = near // num_classes, near % num_classes
    by_score = (scores[:, None] - pairs.scores[query, kind]).abs()  # (D, pairs)
    by_pixels = ((boxes[:, None] - pairs.boxes[query]) * pairs.extent).abs().amax(-1)
    cost = torch.maximum(by_score / SCORE_TOLERANCE, by_pixels / PIXEL_TOLERANCE)
    cost = cost.where(classes[:, None] == kind, OTHER_CLASS)
    row, column = linear_sum_assignment(cost.nan_to_num(nan=OTHER_CLASS).numpy())
    if (cost[row, column] >= OTHER_CLASS).any():
        return Difference(torch.inf, torch.inf)
    in_order = (scores - wanted).abs()
    return Difference(
        torch.maximum(by_score[row, column], in_order).max().item(),
        by_pixels[row, column].max().item(),
    )
