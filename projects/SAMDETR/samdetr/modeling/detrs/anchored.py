"""Learned queries, each with an anchor: the point of the image that its boxes start from.

What Conditional DETR and SMCA-DETR, rows of tables 1 and 2, have in common. The anchor follows from
the learned position of the query and stays where it is: https://arxiv.org/abs/2108.06152.

Shapes: B images, N queries, C channels, K classes.
Units:  boxes are (cx, cy, w, h), fractions of the unpadded image; a reference is a box's logit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import MLP

from ...structures import FeatureLevel, Predictions, Queries
from ..arguments import at_least
from ..decoder import MAX_REFERENCE, Decoder, PredictionHead
from ..layers import at_least_float32, xavier_matrices_
from ..position import LearnedQueryPosition


class AnchoredQueryPosition(LearnedQueryPosition):
    """One learned vector per query, and the anchor that an MLP makes of it.

    Args:
        num_queries: N.
        dim: C.
        num_layers: of the MLP.
    """

    def __init__(self, num_queries: int, dim: int, num_layers: int = 2):
        super().__init__(num_queries, dim)
        at_least(1, num_layers=num_layers)
        self.anchor = MLP(dim, [dim] * (num_layers - 1) + [2])
        xavier_matrices_(self.anchor)

    def anchors(self, reference: Tensor) -> Tensor:
        """(B, N, 4) references, of which only B counts, to as many: anchors, and sizes of 0.5."""
        points = at_least_float32(self.anchor(self.embedding.weight))
        return F.pad(points, (0, 2)).expand_as(reference)


class AnchoredDecoder(Decoder):
    """A decoder whose query positions have the say over references."""

    position: Any  # a module with `anchors`

    def forward(self, queries: Queries, pyramid: Sequence[FeatureLevel]) -> Predictions:
        """Predictions after every layer."""
        reference = self.position.anchors(queries.reference)
        return super().forward(queries._replace(reference=reference), pyramid)


class AnchoredPredictionHead(PredictionHead):
    """One head for all layers, behind a norm; boxes start from a reference that stays."""

    def __init__(self, dim: int, num_classes: int):
        super().__init__(dim, num_classes)
        self.norm = nn.LayerNorm(dim)

    def for_layers(self, depth: int) -> list[nn.Module]:
        """Itself, once for all layers."""
        return [self]

    def forward(self, x: Tensor, reference: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As in the parent; the reference stays what it is."""
        x = self.norm(x)
        reference = reference.clamp(-MAX_REFERENCE, MAX_REFERENCE)
        boxes = (reference + self.boxes(x)).sigmoid()
        return self.classes(x), boxes, reference
