"""Deformable DETR: queries read a few points of every feature level around a learned point.

A row of table 1. Deformable DETR: https://arxiv.org/abs/2010.04159; its encoder is
`DeformableSelfAttention` in `encoder.py`.

Shapes: B images, N queries, M heads, L levels, P points per level and head, C channels.
Units:  boxes are (cx, cy, w, h), fractions of the unpadded image; a reference is the logit of a box
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...structures import AlignedQueries, FeatureLevel, Predictions, Queries
from ..aligner import NoAligner
from ..decoder import Decoder, PredictionHead
from ..encoder import DeformableAttention, valid_ratios
from ..layers import NarrowConv2d, at_least_float32, clones
from ..neck import MultiScaleMapper

SMALL_LOGIT = -2.0  # initial width and height of the boxes: 0.12 of the image


class ExtraLevelMapper(MultiScaleMapper):
    """`MultiScaleMapper` with one more level, a strided 3x3 convolution of the coarsest map."""

    def convolutions(self, dim: int) -> list[tuple[str, nn.Conv2d]]:
        """Return the backbone map and the convolution of each level, from fine to coarse."""
        coarsest, channels = list(self.in_channels.items())[-1]
        extra = NarrowConv2d(channels, dim, kernel_size=3, stride=2, padding=1)
        return [*super().convolutions(dim), (coarsest, extra)]


class LearnedContent(nn.Module):
    """Queries with learned content; their references come from the decoder.

    Args:
        num_queries: N.
        dim: C.
    """

    def __init__(self, num_queries: int, dim: int):
        super().__init__()
        self.num_queries = num_queries
        self.content = nn.Embedding(num_queries, dim)  # normal(0, 1)

    def forward(self, pyramid: Sequence[FeatureLevel]) -> Queries:
        """Return the same queries for each image of the pyramid, at the centre."""
        content = self.content.weight.expand(pyramid[0].tokens.shape[0], -1, -1)
        return Queries(content, content.new_zeros(*content.shape[:2], 4))


class BoxAligner(NoAligner):
    """Pass the queries to cross-attention unchanged, with their reference boxes as descriptors."""

    def forward(
        self, x: Tensor, position: Tensor, boxes: Tensor, level: FeatureLevel
    ) -> AlignedQueries:
        """Same as in the parent; the descriptor is (B, N, 4)."""
        return super().forward(x, position, boxes, level)._replace(descriptor=boxes)


class DeformableCrossAttention(DeformableAttention):
    """Deformable attention of queries from `BoxAligner`, around the centres of their boxes."""

    num_points = 1  # of the aligner

    def forward(  # type: ignore[override]
        self, aligned: AlignedQueries, levels: Sequence[FeatureLevel]
    ) -> Tensor:
        """Attend to all levels; returns (B, N, C)."""
        query = (aligned.content + aligned.position).squeeze(2)
        tokens = torch.cat([level.tokens for level in levels], dim=1)
        ratios = valid_ratios(levels).repeat(1, 1, 2)  # (B, L, 4)
        boxes = aligned.descriptor[:, :, None] * ratios[:, None]  # (B, N, L, 4)
        return super().forward(query, boxes, tokens, levels)

    def locate(self, reference: Tensor, offsets: Tensor, levels: Sequence[FeatureLevel]) -> Tensor:
        """Same as in the parent, for (B, N, L, 4) boxes."""
        return super().locate(reference[..., :2], offsets, levels)


class BoxDeformableCrossAttention(DeformableCrossAttention):
    """The same with offsets relative to the box: P units are half its size."""

    def locate(self, reference: Tensor, offsets: Tensor, levels: Sequence[FeatureLevel]) -> Tensor:
        """Same as in the parent."""
        centre, size = reference[:, :, None, :, None].split(2, dim=-1)
        return centre + offsets * size / (2 * self.shape[-1])


class PointPredictionHead(PredictionHead):
    """One head for all layers, whose boxes lie around a fixed point."""

    shared = True

    def reset_parameters(self) -> None:
        """Start every class at the focal prior and every box small."""
        super().reset_parameters()
        shrink(self)

    def forward(self, x: Tensor, reference: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Same as in the parent, but the reference is returned unchanged."""
        logits, boxes, _ = super().forward(x, reference)
        return logits, boxes, reference


class RefiningPredictionHead(PredictionHead):
    """A head for each layer, the first of which turns points into boxes."""

    def for_layers(self, depth: int) -> list[nn.Module]:
        """Return a newly initialised head for each layer; boxes of the first start small."""
        first, *others = clones(self, depth)
        return [shrink(first), *others]


def shrink(head: PredictionHead) -> PredictionHead:
    """Make the initial boxes of a head small, in place."""
    nn.init.constant_(head.last_box_layer().bias[2:], SMALL_LOGIT)
    return head


class DeformableDecoder(Decoder):
    """Decoder whose layers read all feature levels, from a point predicted by the query's position.

    Args:
        layer: template of a layer; each layer is a newly initialised copy.
        head: template of a prediction head.
        position: query positions, which do not depend on boxes.
        dim: C.
        num_layers: number of layers.
        first_layer: template of the first layer, where it differs from the others: with iterative
            box refinement only the first layer starts from points, not boxes.
    """

    def __init__(
        self,
        layer: nn.Module,
        head: PredictionHead,
        position: nn.Module,
        dim: int,
        num_layers: int,
        first_layer: nn.Module | None = None,
    ):
        super().__init__(layer, head, position, [0] * num_layers, first_layer)
        self.reference = nn.Linear(dim, 2)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise the points by Xavier, so that they spread like the positions."""
        nn.init.xavier_uniform_(self.reference.weight)
        nn.init.zeros_(self.reference.bias)

    def forward(self, queries: Queries, pyramid: Sequence[FeatureLevel]) -> Predictions:
        """Return the predictions of all layers."""
        points = at_least_float32(self.reference(self.position(queries.reference)))  # logits
        reference = torch.cat([points, torch.zeros_like(points)], dim=-1)
        # The parent passes one level to each layer: here that is the whole pyramid.
        return super().forward(queries._replace(reference=reference), [pyramid])  # type: ignore


RefiningDeformableDecoder = DeformableDecoder  # name in older configs
