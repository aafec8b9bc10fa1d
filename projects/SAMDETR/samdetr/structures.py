"""Tuples that the parts of the model exchange.

Shapes: B images, S = H * W cells of one feature level, N queries, M keypoints, C channels,
        L decoder layers, K classes, T boxes of the fullest image (at least 1).
Units:  boxes are (cx, cy, w, h) and points (x, y), both fractions of the unpadded image;
        a reference is the logit of a box; a cell is a pixel of a feature map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from detectron2.structures import Instances
from torch import Tensor
from torchvision.ops import box_convert


class FeatureLevel(NamedTuple):
    """One scale of the image features, as tokens."""

    tokens: Tensor  # (B, S, C)
    position: Tensor  # (B, S, C) position encoding
    padding: Tensor  # (B, S) bool, True on cells outside the image
    size: tuple[int, int]  # (H, W) cells

    @property
    def map(self) -> Tensor:
        """The tokens as a feature map, (B, C, H, W)."""
        return self.tokens.transpose(1, 2).unflatten(2, self.size)

    @property
    def extent(self) -> Tensor:
        """Width and height of the unpadded part in whole cells, (B, 2) float, at least 1.

        Counted in the padding mask, since image size / stride would give fractions of a cell.
        """
        valid = ~self.padding.unflatten(1, self.size)  # (B, H, W)
        return torch.stack([valid[:, 0].sum(1), valid[:, :, 0].sum(1)], dim=1).clamp(min=1).float()


class Queries(NamedTuple):
    """Object queries as they enter the decoder."""

    content: Tensor  # (B, N, C)
    reference: Tensor  # (B, N, 4) logits of the reference boxes
    mask: Tensor | None = None  # (B, 1, N, N) bias of self-attention, -inf where masked
    known: Tensor | None = None  # (B, D) targets of the last D queries, -1 for none


class AlignedQueries(NamedTuple):
    """Queries that an aligner has prepared for cross-attention (section 4.2)."""

    content: Tensor  # (B, N, M, C) features of the keypoints
    position: Tensor  # (B, N, M, C) their position embeddings
    points: Tensor  # (B, N, M, 2) the keypoints
    descriptor: Tensor  # (B, N, E) features that the keypoints were predicted from


class Predictions(NamedTuple):
    """Outputs of all decoder layers; the last layer is not special."""

    logits: Tensor  # (L, B, N, K)
    boxes: Tensor  # (L, B, N, 4)


class Targets(NamedTuple):
    """Ground truth of a batch, padded to T boxes per image."""

    labels: Tensor  # (B, T) int64, 0 where padded
    boxes: Tensor  # (B, T, 4), 0.5 where padded
    counts: list[int]  # boxes of each image
    accumulated: Sequence[int] | None = None  # boxes of each image of all batches of the step

    @property
    def step_counts(self) -> Sequence[int]:
        """Boxes of each image of the step: of this batch, unless gradients are accumulated."""
        return self.counts if self.accumulated is None else self.accumulated

    @classmethod
    def from_instances(
        cls, instances: Sequence[Instances], device: torch.device | str = "cpu"
    ) -> Targets:
        """Pad the ground truth of a batch and move it to a device, one copy per tensor.

        Args:
            instances: per image, `gt_boxes` in pixels and `gt_classes`.
            device: device of the result.
        """
        counts = [len(x) for x in instances]
        labels = torch.zeros(len(counts), max([1, *counts]), dtype=torch.int64)
        boxes = torch.full((*labels.shape, 4), 0.5)
        for i, (x, count) in enumerate(zip(instances, counts)):
            height, width = x.image_size
            labels[i, :count] = x.gt_classes
            scale = torch.tensor([width, height, width, height])
            corners = x.gt_boxes.tensor.float().cpu() / scale
            boxes[i, :count] = box_convert(corners, "xyxy", "cxcywh")
        labels, boxes = (x.to(device, non_blocking=True) for x in (labels, boxes))
        return cls(labels, boxes, counts)
