"""Set prediction losses of all decoder layers.

Paper: sections 3, 4.5.2 and 5.1 (focal loss in place of cross-entropy); weights as in DETR's
descendants.

Shapes: B images, N queries, K classes, L decoder layers, P matched pairs, D denoising queries.
"""

from __future__ import annotations

import torch
from detectron2.utils.comm import get_world_size
from torch import Tensor, distributed, nn
from torchvision.ops import sigmoid_focal_loss

from ..structures import Predictions, Targets
from .layers import between
from .ops.boxes import corners, generalized_iou


class SetCriterion(nn.Module):
    """Focal, L1 and generalised IoU loss between matched predictions and ground truth.

    Args:
        matcher: from predictions and targets to `Matches`.
        class_weight, bbox_weight, giou_weight: weights of the three losses.
        alpha, gamma: of the focal loss.

    Raises:
        ValueError: for 0 < gamma < 1, where the focal gradient diverges at probability 0 or 1.
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
        if gamma != 0 and gamma < 1:
            raise ValueError(f"gamma is {gamma}, must be 0 or at least 1")
        weights = dict(class_weight=class_weight, bbox_weight=bbox_weight, giou_weight=giou_weight)
        between(0, float("inf"), **weights, gamma=gamma)
        between(0, 1, alpha=alpha)
        self.matcher = matcher
        self.weights = {"loss_ce": class_weight, "loss_bbox": bbox_weight, "loss_giou": giou_weight}
        self.alpha = alpha
        self.gamma = gamma

    def forward(
        self, predictions: Predictions, targets: Targets, known: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return the weighted losses by name.

        Args:
            predictions: of all layers and queries.
            targets: ground truth.
            known: targets of the denoising queries, as in `Queries`.

        Returns:
            `loss_ce`, `loss_bbox` and `loss_giou` of the last layer, those of earlier layers with
            the suffixes `_0`, `_1`, …, and those of denoising queries with the further suffix
            `_dn`. The keys do not depend on the data.
        """
        if known is None:
            return self.matching_losses(predictions, targets)
        lengths = [predictions.logits.shape[2] - known.shape[1], known.shape[1]]
        matching, denoising = (
            Predictions(*x) for x in zip(*(y.split(lengths, 2) for y in predictions))
        )
        denoised = self.denoising_losses(denoising, targets, known)
        return {
            **self.matching_losses(matching, targets),
            **{f"{name}_dn": value for name, value in denoised.items()},
        }

    def matching_losses(self, predictions: Predictions, targets: Targets) -> dict[str, Tensor]:
        """Losses of the matching queries, divided by the number of boxes of the step."""
        layer, image, query, target = self.matcher(predictions, targets)
        truth = torch.zeros_like(predictions.logits)
        truth[layer, image, query, targets.labels[image, target]] = 1.0
        boxes = predictions.boxes[layer, image, query], targets.boxes[image, target]  # (P, 4) each
        zero = truth.new_zeros(len(truth))
        count = self.normaliser(zero.new_full((), float(sum(targets.step_counts))))
        sums = {
            "loss_ce": self.class_sums(predictions.logits, truth, targets, count),
            **{name: zero.index_add(0, layer, x) for name, x in box_losses(*boxes).items()},
        }
        return self.named(sums, count)

    def denoising_losses(
        self, predictions: Predictions, targets: Targets, known: Tensor
    ) -> dict[str, Tensor]:
        """Losses of the denoising queries (section 4.5.2), divided by the number of those."""
        counted, index = known >= 0, known.clamp(min=0)
        labels = targets.labels.gather(1, index)  # (B, D)
        truth = torch.zeros_like(predictions.logits[0]).scatter_(-1, labels[..., None], 1.0)
        boxes = targets.boxes.gather(1, index[..., None].expand(-1, -1, 4))  # (B, D, 4)
        losses = {
            "loss_ce": self.class_loss(predictions.logits, truth.expand_as(predictions.logits)),
            **box_losses(predictions.boxes, boxes),
        }
        sums = {name: (x * counted).sum((1, 2)) for name, x in losses.items()}
        # Accumulated batches count as if all had as many denoising queries per box as this one.
        share = sum(targets.step_counts) / max(1, sum(targets.counts))
        return self.named(sums, self.normaliser(counted.sum() * share))

    def class_sums(self, logits: Tensor, truth: Tensor, targets: Targets, count: Tensor) -> Tensor:
        """Class losses of the matching queries before division by the number of boxes: (L,)."""
        return self.class_loss(logits, truth).sum((1, 2))

    def class_loss(self, logits: Tensor, truth: Tensor) -> Tensor:
        """Focal loss of (..., K) logits, summed over the classes."""
        return sigmoid_focal_loss(logits, truth, self.alpha, self.gamma).sum(-1)

    def normaliser(self, count: Tensor) -> Tensor:
        """Return a number of boxes, in training averaged over the processes; at least 1."""
        # In evaluation processes have different numbers of batches, so they cannot wait.
        processes = get_world_size() if self.training else 1
        if processes > 1:
            distributed.all_reduce(count)
        return (count / processes).clamp(min=1)

    def named(self, sums: dict[str, Tensor], count: Tensor) -> dict[str, Tensor]:
        """Weight (L,) sums, divide them by the count and name them by layer."""
        depth = len(sums["loss_ce"])
        suffixes = [*(f"_{i}" for i in range(depth - 1)), ""]
        return {
            name + suffix: self.weights[name] * value / count
            for name, values in sums.items()
            for value, suffix in zip(values, suffixes)
        }


def box_losses(predicted: Tensor, truth: Tensor) -> dict[str, Tensor]:
    """L1 and generalised IoU losses of (..., 4) boxes (cx, cy, w, h): (...) each."""
    return {
        "loss_bbox": (predicted - truth).abs().sum(-1),
        "loss_giou": 1 - generalized_iou(corners(predicted), corners(truth)),
    }
