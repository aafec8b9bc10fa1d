"""Comparison of the detections of an exported file with those of the model.

Scores that are equal up to rounding may be sorted differently, so every detection is compared with
the query-class pair of the model that is nearest to it.

Shapes: N queries, K classes, D detections of one image; the model's outputs of B images have a
        leading B.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

SCORE_TOLERANCE = 1e-3
PIXEL_TOLERANCE = 0.1


class Pairs(NamedTuple):
    """Outputs of the model for all pairs of query and class."""

    boxes: Tensor  # (…, N, 4) corners, fractions of the image
    scores: Tensor  # (…, N, K)
    extent: Tensor  # (…, 4) width, height, width, height of the image in pixels


class Difference(NamedTuple):
    """Largest differences in scores and in box corners; true if they exceed the tolerances."""

    scores: float
    pixels: float

    @classmethod
    def largest(cls, differences: Sequence[Difference]) -> Difference:
        """Return the elementwise maximum."""
        return cls(*map(max, zip(*differences)))

    def __bool__(self) -> bool:
        """True if a tolerance is exceeded or a difference is NaN."""
        return not (self.scores <= SCORE_TOLERANCE and self.pixels <= PIXEL_TOLERANCE)

    def __str__(self) -> str:
        return f"scores differ by {self.scores:.1e}, boxes by {self.pixels:.1e} pixels"


def match(boxes: Tensor, scores: Tensor, classes: Tensor, pairs: Pairs, count: int) -> Difference:
    """Return the difference between the detections of one image and the model's best pairs.

    Scores are compared in order; box and class of a detection with the nearest pair.

    Args:
        boxes, scores, classes: (D, 4), (D) and (D) detections.
        pairs: of the image.
        count: expected number of detections; fewer if N * K is smaller.

    Returns:
        The largest differences; infinite if detections are missing or have an unknown class.
    """
    wanted = pairs.scores.flatten().sort(descending=True).values[:count]
    known = ((classes >= 0) & (classes < pairs.scores.shape[-1])).all()
    if len(scores) != len(wanted) or not known:
        return Difference(torch.inf, torch.inf)
    by_score = (scores[:, None] - pairs.scores[:, classes].T).abs()  # (D, N)
    by_pixels = ((boxes[:, None] - pairs.boxes) * pairs.extent).abs().amax(-1)  # (D, N)
    cost = torch.maximum(by_score / SCORE_TOLERANCE, by_pixels / PIXEL_TOLERANCE)
    nearest = cost.argmin(1, keepdim=True)
    in_order = (scores - wanted).abs()[:, None]
    return Difference(
        torch.maximum(by_score.gather(1, nearest), in_order).max().item(),
        by_pixels.gather(1, nearest).max().item(),
    )
