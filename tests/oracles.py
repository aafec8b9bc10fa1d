"""Slow twins of the model's parts: loops and scalar formulas that are right at a glance.

Boxes are (cx, cy, w, h) unless a name says corners, which are (x0, y0, x1, y1).
"""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import torch
from torch import Tensor, nn

from samdetr.modeling.attention import MultiheadAttention
from samdetr.structures import FeatureLevel


def attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    """`attend` one query at a time, every head with keys of its own."""
    batch, heads, queries, dim = query.shape
    out = query.new_zeros(batch, heads, queries, value.shape[-1])
    for b, m, n in np.ndindex(batch, heads, queries):
        scores = key[b, m] @ query[b, m, n] / math.sqrt(dim) + bias[b, m, n]
        weights = scores.exp() / scores.exp().sum()
        out[b, m, n] = (weights[:, None] * value[b, m]).sum(0)
    return out


def torch_attention(attention: MultiheadAttention) -> nn.MultiheadAttention:
    """torch's multi-head attention with the same weights."""
    dim = attention.output.in_features
    twin = nn.MultiheadAttention(dim, attention.num_heads, batch_first=True)
    twin.load_state_dict(
        {
            "in_proj_weight": attention.in_proj.weight,
            "in_proj_bias": attention.in_proj.bias,
            "out_proj.weight": attention.output.weight,
            "out_proj.bias": attention.output.bias,
        }
    )
    return twin


def valid_cells(level: FeatureLevel, image: int) -> tuple[int, int]:
    """Width and height of the unpadded part of an image."""
    valid = ~level.padding[image].view(level.size)
    return int(valid.any(0).sum()), int(valid.any(1).sum())


def gaussian_bias(points: Tensor, scale: Tensor, level: FeatureLevel, bandwidth: float) -> Tensor:
    """SMCA's bias on the full grid of cells, (B, M, N, S).

    Args:
        points: (B, N, M, 2) keypoints, fractions of the image.
        scale: (B, N, M, 2) of the Gaussian, not yet squared.
    """
    height, width = level.size
    cells = torch.tensor([[x + 0.5, y + 0.5] for y in range(height) for x in range(width)])
    extent = torch.tensor([valid_cells(level, b) for b in range(len(points))])
    offset = (points * extent[:, None, None])[..., None, :] - cells  # (B, N, M, S, 2)
    bias = -(scale[..., None, :] ** 2 * offset**2).sum(-1) / bandwidth
    outside = level.padding[:, None, None].expand_as(bias)
    return bias.masked_fill(outside, -math.inf).transpose(1, 2)


def sine_embedding(x: float, y: float, dim: int) -> list[float]:
    """The embedding of one point: `dim / 2` channels for y, then as many for x."""
    half = dim // 2
    embedding = []
    for coordinate in (y, x):
        for i in range(half):
            angle = coordinate * 2 * math.pi / 10000 ** (2 * (i // 2) / half)
            embedding.append(math.cos(angle) if i % 2 else math.sin(angle))
    return embedding


def roi_align(features: np.ndarray, corners: np.ndarray, size: int) -> np.ndarray:
    """Aligned RoIAlign with adaptive sampling of (C, H, W) features in a box given in cells."""
    x0, y0, x1, y1 = corners
    width, height = (x1 - x0) / size, (y1 - y0) / size  # of a bin
    columns, rows = math.ceil(width), math.ceil(height)
    out = np.zeros((len(features), size, size))
    for i, j, row, column in np.ndindex(size, size, rows, columns):
        x = x0 - 0.5 + (j + (column + 0.5) / columns) * width
        y = y0 - 0.5 + (i + (row + 0.5) / rows) * height
        out[:, i, j] += bilinear(features, x, y) / (rows * columns)
    return out


def bilinear(features: np.ndarray, x: float, y: float) -> np.ndarray:
    """RoIAlign's sample of (C, H, W) features: the rim holds for one cell, then come zeros."""
    _, height, width = features.shape
    if not (-1 <= x <= width and -1 <= y <= height):
        return np.zeros(len(features))
    x, y = min(max(x, 0), width - 1), min(max(y, 0), height - 1)
    return hat_sample(features, x, y)


def hat_sample(features: np.ndarray, x: float, y: float) -> np.ndarray:
    """Bilinear interpolation of (C, H, W) features at a point in cells, zeros around the map."""
    out = np.zeros(len(features))
    for i, j in np.ndindex(features.shape[1:]):
        out += max(0, 1 - abs(x - j)) * max(0, 1 - abs(y - i)) * features[:, i, j]
    return out


def corners(box: list[float]) -> tuple[float, float, float, float]:
    cx, cy, w, h = box
    return cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2


def giou(a: list[float], b: list[float]) -> float:
    """Generalised IoU of two boxes."""
    ax0, ay0, ax1, ay1 = corners(a)
    bx0, by0, bx1, by1 = corners(b)
    shared = max(0, min(ax1, bx1) - max(ax0, bx0)) * max(0, min(ay1, by1) - max(ay0, by0))
    union = a[2] * a[3] + b[2] * b[3] - shared
    hull = (max(ax1, bx1) - min(ax0, bx0)) * (max(ay1, by1) - min(ay0, by0))
    return shared / union - (hull - union) / hull


def l1(a: list[float], b: list[float]) -> float:
    return sum(abs(x - y) for x, y in zip(a, b))


def pair_cost(logit: float, box: list[float], truth: list[float]) -> float:
    """What matching a query to an object costs; `logit` is that of the object's class."""
    p = 1 / (1 + math.exp(-logit))
    positive = 0.25 * (1 - p) ** 2 * -math.log(p + 1e-8)
    negative = 0.75 * p**2 * -math.log(1 - p + 1e-8)
    return 2 * (positive - negative) + 5 * l1(box, truth) - 2 * giou(box, truth)


def cheapest_total(cost: np.ndarray) -> float:
    """Cost of the best assignment of every column to a row of its own, by trying them all."""
    rows, columns = cost.shape
    choices = permutations(range(rows), columns)
    return min(sum(cost[row, column] for column, row in enumerate(rows)) for rows in choices)


def focal_loss(logit: float, positive: bool) -> float:
    p = 1 / (1 + math.exp(-logit))
    if positive:
        return -0.25 * (1 - p) ** 2 * math.log(p)
    return -0.75 * p**2 * math.log(1 - p)


def set_losses(logits: Tensor, boxes: Tensor, targets, pairs: list[tuple[int, int, int]]) -> dict:
    """Weighted losses of one decoder layer.

    Args:
        logits: (B, N, K).
        boxes: (B, N, 4).
        pairs: matched (image, query, target).
    """
    labels, truth = targets.labels.tolist(), targets.boxes.tolist()
    positive = {(image, query, labels[image][target]) for image, query, target in pairs}
    matched = [(boxes[image, query].tolist(), truth[image][t]) for image, query, t in pairs]
    count = max(1, sum(targets.counts))
    classes = [focal_loss(float(logits[i]), i in positive) for i in np.ndindex(*logits.shape)]
    return {
        "loss_ce": 2 * sum(classes) / count,
        "loss_bbox": 5 * sum(l1(*pair) for pair in matched) / count,
        "loss_giou": 2 * sum(1 - giou(*pair) for pair in matched) / count,
    }


def best_detections(logits: Tensor, boxes: Tensor, size: tuple[int, int], count: int) -> list:
    """(score, class, corners in pixels) of the best pairs of query and class of one image."""
    height, width = size
    found = []
    for query, label in np.ndindex(*logits.shape):
        score = 1 / (1 + math.exp(-float(logits[query, label])))
        x0, y0, x1, y1 = corners(boxes[query].tolist())
        found.append((score, label, [x0 * width, y0 * height, x1 * width, y1 * height]))
    return sorted(found, key=lambda x: -x[0])[:count]
