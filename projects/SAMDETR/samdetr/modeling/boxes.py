"""Geometry of boxes, broadcast over any leading dimensions."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import box_convert


def corners(boxes: Tensor) -> Tensor:
    """(..., 4) boxes from (cx, cy, w, h) to (x0, y0, x1, y1)."""
    return box_convert(boxes, "cxcywh", "xyxy")


def area(boxes: Tensor) -> Tensor:
    """(...) areas of (x0, y0, x1, y1) boxes, 0 where a box is turned inside out."""
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)


def generalized_iou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised intersection over union (https://arxiv.org/abs/1902.09630).

    torchvision has it for all pairs of two flat lists; this one broadcasts, which serves the
    matching of all layers at once and the loss alike.

    Args:
        a, b: (x0, y0, x1, y1) boxes of positive area, (..., 4), broadcast against each other.

    Returns:
        (...) values in (-1, 1].
    """
    low, high = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    intersection = (high - low).clamp(min=0).prod(-1)
    union = area(a) + area(b) - intersection
    low, high = torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:])
    hull = (high - low).clamp(min=0).prod(-1)
    return intersection / union - (hull - union) / hull
