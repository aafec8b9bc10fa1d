"""Hungarian matching between predictions and ground truth.

Paper: section 3; the cost is DETR's with the focal loss in place of the class probability.

Shapes: B images, N queries, K classes, L decoder layers, T boxes of the fullest image.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from ..structures import Predictions, Targets
from .layers import between
from .ops.boxes import corners, generalized_iou


class Matches(NamedTuple):
    """Matched pairs of all layers and images, P in all; each field is (P,) int64."""

    layer: Tensor
    image: Tensor
    query: Tensor
    target: Tensor


class HungarianMatcher(nn.Module):
    """Minimum-cost one-to-one assignment by classification, L1 and generalised IoU cost.

    Args:
        class_weight, bbox_weight, giou_weight: weights of the three costs.
        alpha, gamma: of the focal loss.
    """

    def __init__(
        self,
        class_weight: float = 2.0,
        bbox_weight: float = 5.0,
        giou_weight: float = 2.0,
        alpha: float = 0.25,
        gamma: float = 2.0,
    ):
        super().__init__()
        weights = dict(class_weight=class_weight, bbox_weight=bbox_weight, giou_weight=giou_weight)
        between(0, float("inf"), **weights, gamma=gamma)
        between(0, 1, alpha=alpha)
        self.class_weight = class_weight
        self.bbox_weight = bbox_weight
        self.giou_weight = giou_weight
        self.alpha = alpha
        self.gamma = gamma

    @torch.no_grad()
    def forward(self, predictions: Predictions, targets: Targets) -> Matches:
        """Match every layer and image independently.

        All costs go to the host in one copy and the pairs come back in another.
        """
        cost = self.to_host(self.cost(predictions, targets)).numpy()  # (L, B, N, T)
        found = [np.zeros((4, 0), dtype=np.int64)]
        for layer, image in np.ndindex(cost.shape[:2]):
            query, target = linear_sum_assignment(cost[layer, image, :, : targets.counts[image]])
            indices = [np.full_like(query, i) for i in (layer, image)]
            found.append(np.stack([*indices, query, target]))
        pairs = torch.from_numpy(np.concatenate(found, axis=1))
        return Matches(*pairs.to(targets.boxes.device, non_blocking=True))

    def to_host(self, cost: Tensor) -> Tensor:
        """Copy a tensor to the host: the one synchronisation of a training step."""
        return cost.cpu()

    def cost(self, predictions: Predictions, targets: Targets) -> Tensor:
        """Cost of every pair, (L, B, N, T); finite even where a prediction is not."""
        cost = self.class_weight * self.class_cost(predictions.logits, targets.labels)
        cost += self.bbox_weight * torch.cdist(predictions.boxes, targets.boxes, p=1)
        boxes, truth = corners(predictions.boxes)[..., None, :], corners(targets.boxes)[:, None]
        cost -= self.giou_weight * generalized_iou(boxes, truth)
        # The loss is not finite either in that case, and the trainer reports it.
        return cost.nan_to_num(nan=1e4, posinf=1e4, neginf=-1e4)

    def class_cost(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Focal loss of a positive minus that of a negative for (B, T) labels: (L, B, N, T)."""
        labels = labels[None, :, None].expand(*logits.shape[:3], -1)
        probability = logits.gather(-1, labels).sigmoid()
        positive = self.alpha * (1 - probability) ** self.gamma * -(probability + 1e-8).log()
        negative = (1 - self.alpha) * probability**self.gamma * -(1 - probability + 1e-8).log()
        return positive - negative
