"""The classification of the original DETR: one class or none for each query.

In the paper even the baseline has the focal loss (section 5.1). DETR:
https://arxiv.org/abs/2005.12872, section 3.1.

Shapes: B images, N queries, K classes, L decoder layers. Logits have K + 1 columns, the last of
        which is "no object".
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..arguments import between
from ..criterion import SetCriterion
from ..decoder import DETRPredictionHead
from ..matcher import HungarianMatcher


class SoftmaxPredictionHead(DETRPredictionHead):
    """DETR's head, with a logit for "no object" behind those of the classes."""

    def __init__(self, dim: int, num_classes: int):
        super().__init__(dim, num_classes)
        self.nothing = nn.Linear(dim, 1)

    def reset_parameters(self) -> None:
        """Everything keeps torch's initial values."""

    def scores(self, logits: Tensor) -> Tensor:
        """Logits to (..., K) probabilities; those of all but a query's likeliest class become 0."""
        probability = logits.softmax(-1)[..., :-1]
        return probability.where(probability == probability.amax(-1, keepdim=True), 0.0)

    def forward(self, x: Tensor, reference: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As in the parent, with (B, N, K + 1) logits."""
        logits, boxes, reference = super().forward(x, reference)
        return torch.cat([logits, self.nothing(self.norm(x))], dim=-1), boxes, reference


class SoftmaxMatcher(HungarianMatcher):
    """Matching with the probability of the class.

    Args:
        class_weight, bbox_weight, giou_weight: weights of the three costs.
    """

    def __init__(
        self, class_weight: float = 1.0, bbox_weight: float = 5.0, giou_weight: float = 2.0
    ):
        super().__init__(class_weight, bbox_weight, giou_weight)

    def class_cost(self, logits: Tensor, labels: Tensor) -> Tensor:
        """As in the parent."""
        labels = labels[None, :, None].expand(*logits.shape[:3], -1)
        return -logits.softmax(-1).gather(-1, labels)


class SoftmaxCriterion(SetCriterion):
    """Cross-entropy of all queries, L1 and generalised IoU loss of the matched ones.

    Args:
        matcher: from predictions and targets to `Matches`.
        class_weight, bbox_weight, giou_weight: weights of the three losses.
        nothing_weight: of a query without an object in the mean cross-entropy, those with an
            object having 1; more than 0.

    Raises:
        ValueError: if `nothing_weight` is not positive: then a batch without objects has no mean.
    """

    def __init__(
        self,
        matcher: nn.Module,
        class_weight: float = 1.0,
        bbox_weight: float = 5.0,
        giou_weight: float = 2.0,
        nothing_weight: float = 0.1,
    ):
        super().__init__(matcher, class_weight, bbox_weight, giou_weight)
        if not nothing_weight > 0:
            raise ValueError(f"nothing_weight must be more than 0, got {nothing_weight}")
        between(0, 1, nothing_weight=nothing_weight)
        self.nothing_weight = nothing_weight

    def class_loss(self, logits: Tensor, truth: Tensor) -> Tensor:
        """Cross-entropy of (..., K + 1) logits."""
        return -(truth * logits.log_softmax(-1)).sum(-1)

    def class_sums(self, logits: Tensor, truth: Tensor, count: Tensor) -> Tensor:
        """As in the parent; the mean over the queries of this process is weighted by class."""
        nothing = 1 - truth.sum(-1)  # (L, B, N)
        truth = torch.cat([truth[..., :-1], nothing[..., None]], dim=-1)
        weight = 1 + (self.nothing_weight - 1) * nothing
        mean = (weight * self.class_loss(logits, truth)).sum((1, 2)) / weight.sum((1, 2))
        return mean * count
