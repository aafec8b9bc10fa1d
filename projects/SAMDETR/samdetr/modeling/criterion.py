"""Set prediction losses of all decoder layers.

Paper: sections 3 and 5.1 (sigmoid focal loss in place of cross-entropy); weights as in DETR's kin.

Shapes: B images, N queries, K classes, L decoder layers, P matched pairs.
"""

from __future__ import annotations

import torch
from detectron2.utils.comm import get_world_size
from fvcore.nn import sigmoid_focal_loss
from torch import Tensor, distributed, nn

from ..structures import Predictions, Targets
from .boxes import corners, generalized_iou
from .matcher import Matches


class SetCriterion(nn.Module):
    """Focal, L1 and generalised IoU loss between matched predictions and ground truth.

    Args:
        matcher: from predictions and targets to `Matches`.
        class_weight, bbox_weight, giou_weight: weights of the three losses.
        alpha, gamma: of the focal loss.
    """

    def __init__(
        self,
        matcher: nn.Module,
        class_weight: float = 2.0,
        bbox_weight: float = 5.0,
        giou_weight: float = 2.0,
        alpha: float = 0.25,
        gamma: float = 2.0,
    ):
        super().__init__()
        self.matcher = matcher
        self.weights = {"loss_ce": class_weight, "loss_bbox": bbox_weight, "loss_giou": giou_weight}
        self.alpha = alpha
        self.gamma = gamma

    def forward(self, predictions: Predictions, targets: Targets) -> dict[str, Tensor]:
        """Weighted losses: `loss_ce`, `loss_bbox` and `loss_giou` of the last layer, and of the
        earlier ones under the same names with `_0`, `_1`, … behind. The keys depend on L alone.
        """
        matches = self.matcher(predictions, targets)
        count = self.normalizer(targets)
        losses = {
            "loss_ce": self.class_loss(predictions.logits, targets, matches),
            **self.box_losses(predictions.boxes, targets, matches),
        }
        return {
            name + suffix: self.weights[name] * value / count
            for name, values in losses.items()
            for value, suffix in zip(values, self.suffixes(len(values)))
        }

    @staticmethod
    def suffixes(depth: int) -> list[str]:
        """What follows the names of the losses of each layer."""
        return [*(f"_{i}" for i in range(depth - 1)), ""]

    @staticmethod
    def normalizer(targets: Targets) -> Tensor:
        """Boxes per process, averaged over the processes; at least 1."""
        count = targets.boxes.new_tensor(float(sum(targets.counts)))
        if get_world_size() > 1:
            distributed.all_reduce(count)
        return (count / get_world_size()).clamp(min=1)

    def class_loss(self, logits: Tensor, targets: Targets, matches: Matches) -> Tensor:
        """Focal loss, summed over images, queries and classes: (L,)."""
        layer, image, query, target = matches
        truth = torch.zeros_like(logits)
        truth[layer, image, query, targets.labels[image, target]] = 1.0
        return sigmoid_focal_loss(logits, truth, self.alpha, self.gamma).sum((1, 2, 3))

    def box_losses(self, boxes: Tensor, targets: Targets, matches: Matches) -> dict[str, Tensor]:
        """L1 loss of (cx, cy, w, h) and generalised IoU loss, summed over the pairs: (L,) each."""
        layer, image, query, target = matches
        predicted, truth = boxes[layer, image, query], targets.boxes[image, target]  # (P, 4)
        pairs = {
            "loss_bbox": (predicted - truth).abs().sum(-1),
            "loss_giou": 1 - generalized_iou(corners(predicted), corners(truth)),
        }
        zero = boxes.new_zeros(len(boxes))
        return {name: zero.index_add(0, layer, values) for name, values in pairs.items()}
