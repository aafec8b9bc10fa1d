"""Softmax classification of the original DETR: one class or "no object" for each query.

In the paper even the DETR baseline uses the focal loss (section 5.1). DETR:
https://arxiv.org/abs/2005.12872, section 3.1.

Shapes: B images, N queries, K classes, L decoder layers. Logits have K + 1 columns, the last of
        which is "no object".
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...structures import Targets
from ..criterion import SetCriterion
from ..decoder import DETRPredictionHead
from ..matcher import HungarianMatcher


class SoftmaxPredictionHead(DETRPredictionHead):
    """DETR's head, with a logit for "no object" after those of the classes."""

    def __init__(self, dim: int, num_classes: int):
        super().__init__(dim, num_classes)
        self.nothing = nn.Linear(dim, 1)

    def reset_parameters(self) -> None:
        """Keep torch's initialisation everywhere."""

    def scores(self, logits: Tensor) -> Tensor:
        """Turn logits into (..., K) probabilities, zero for all but the best class of a query."""
        probability = logits.softmax(-1)[..., :-1]
        return probability.where(probability == probability.amax(-1, keepdim=True), 0.0)

    def forward(self, x: Tensor, reference: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Same as in the parent, with (B, N, K + 1) logits."""
        logits, boxes, reference = super().forward(x, reference)
        return torch.cat([logits, self.nothing(self.norm(x))], dim=-1), boxes, reference


class SoftmaxMatcher(HungarianMatcher):
    """Hungarian matching with the probability of the class as the classification cost."""

    def __init__(
        self, class_weight: float = 1.0, bbox_weight: float = 5.0, giou_weight: float = 2.0
    ):
        super().__init__(class_weight, bbox_weight, giou_weight)

    def class_cost(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Negative probabilities of the (B, T) labels: (L, B, N, T)."""
        labels = labels[None, :, None].expand(*logits.shape[:3], -1)
        return -logits.softmax(-1).gather(-1, labels)


class SoftmaxCriterion(SetCriterion):
    """Cross-entropy of all queries, L1 and generalised IoU loss of the matched ones.

    Args:
        matcher, class_weight, bbox_weight, giou_weight: as in `SetCriterion`.
        nothing_weight: weight of a query without an object in the mean cross-entropy, in (0, 1];
            queries with an object have 1.

    Raises:
        ValueError: if `nothing_weight` is 0: a batch without objects would have no mean.
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
        if not 0 < nothing_weight <= 1:
            raise ValueError(f"nothing_weight is {nothing_weight}, must be in (0, 1]")
        self.nothing_weight = nothing_weight

    def class_loss(self, logits: Tensor, truth: Tensor) -> Tensor:
        """Cross-entropy of (..., K + 1) logits."""
        return -(truth * logits.log_softmax(-1)).sum(-1)

    def class_sums(self, logits: Tensor, truth: Tensor, targets: Targets, count: Tensor) -> Tensor:
        """Class-weighted mean over the queries of this process in a step, times `count`: (L,)."""
        nothing = 1 - truth.sum(-1)  # (L, B, N)
        truth = torch.cat([truth[..., :-1], nothing[..., None]], dim=-1)
        weight = 1 + (self.nothing_weight - 1) * nothing
        queries, counts = logits.shape[2], targets.step_counts
        matched = sum(min(x, queries) for x in counts)
        total = matched + self.nothing_weight * (queries * len(counts) - matched)
        return (weight * self.class_loss(logits, truth)).sum((1, 2)) / total * count
