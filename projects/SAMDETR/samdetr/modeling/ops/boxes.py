"""Geometry of boxes, broadcast over any leading dimensions."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import box_convert

MIN_AREA = 1e-12  # lower bound of areas in divisions


def corners(boxes: Tensor) -> Tensor:
    """Convert (..., 4) boxes from (cx, cy, w, h) to (x0, y0, x1, y1)."""
    return box_convert(boxes, "cxcywh", "xyxy")


def area(boxes: Tensor) -> Tensor:
    """Return the (...) areas of (x0, y0, x1, y1) boxes; 0 if width or height is negative."""
    width, height = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).unbind(-1)
    return width * height


def generalized_iou(a: Tensor, b: Tensor) -> Tensor:
    """Generalized intersection over union (https://arxiv.org/abs/1902.09630).

    Unlike torchvision's, which takes two flat lists, it broadcasts: the loss needs pairs and the
    matcher all combinations, of all layers at once.

    Args:
        a, b: (x0, y0, x1, y1) boxes, (..., 4), broadcast against each other.

    Returns:
        (...) values in [-1, 1]; a ratio of empty areas is 0.
    """
    # By coordinate: operators over a last dimension of two are slow, and the backward of `prod`
    # synchronizes with the device.
    ax0, ay0, ax1, ay1 = a.unbind(-1)
    bx0, by0, bx1, by1 = b.unbind(-1)
    width = (torch.minimum(ax1, bx1) - torch.maximum(ax0, bx0)).clamp(min=0)
    height = (torch.minimum(ay1, by1) - torch.maximum(ay0, by0)).clamp(min=0)
    intersection = width * height
    union = area(a) + area(b) - intersection
    width = (torch.maximum(ax1, bx1) - torch.minimum(ax0, bx0)).clamp(min=0)
    height = (torch.maximum(ay1, by1) - torch.minimum(ay0, by0)).clamp(min=0)
    hull = width * height
    return intersection / union.clamp(min=MIN_AREA) - (hull - union) / hull.clamp(min=MIN_AREA)
