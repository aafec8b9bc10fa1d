"""Deformable DETR: queries that read a few points of every feature level around a learned place.

A row of table 1. Deformable DETR: https://arxiv.org/abs/2010.04159; its encoder is `deformable.py`.

Shapes: B images, N queries, M heads, L levels, P points of a level and head, C channels.
Units:  boxes are (cx, cy, w, h), fractions of the unpadded image; a reference is a box's logit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from detectron2.layers import get_norm
from torch import Tensor, nn

from ...structures import AlignedQueries, FeatureLevel, Predictions, Queries
from ..aligner import NoAligner
from ..decoder import Decoder, PredictionHead
from ..deformable import DeformableAttention, valid_ratios
from ..layers import at_least_float32, clones, full_precision
from ..neck import MultiScaleMapper

SMALL_LOGIT = -2.0  # of the width and height that boxes start with: 0.12 of the image


class StridedConv2d(nn.Conv2d):
    """A convolution that trains in float32 where its input is one column.

    On a CPU oneDNN leaves parts of the weight's bfloat16 gradient unwritten there (torch 2.14).
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H', W')."""
        if not torch.is_grad_enabled() or x.shape[-1] > 1:
            return super().forward(x)
        with full_precision(x.device):
            return super().forward(x.to(self.weight.dtype))


class ExtraLevelMapper(MultiScaleMapper):
    """One level more than there are backbone maps: a 3x3 convolution halves the coarsest map."""

    def __init__(self, in_channels: Mapping[str, int], dim: int, position: nn.Module, norm: str):
        super().__init__(in_channels, dim, position, norm)
        self.coarsest = list(in_channels)[-1]
        channels = in_channels[self.coarsest]
        layers = [StridedConv2d(channels, dim, 3, stride=2, padding=1), get_norm(norm, dim)]
        self.projections.append(nn.Sequential(*[x for x in layers if x is not None]))
        self.level_embedding = nn.Embedding(len(self.projections), dim)

    def forward(self, features: Mapping[str, Tensor], padding: Tensor) -> list[FeatureLevel]:
        """As in the parent, with the extra level behind the others."""
        levels = super().forward(features, padding)
        extra = self._level(self.projections[-1](features[self.coarsest]), padding)
        return [*levels, extra._replace(position=extra.position + self.level_embedding.weight[-1])]


class LearnedContent(nn.Module):
    """Queries with learned content; where they look is the decoder's to say.

    Args:
        num_queries: N.
        dim: C.
    """

    def __init__(self, num_queries: int, dim: int):
        super().__init__()
        self.num_queries = num_queries
        self.content = nn.Embedding(num_queries, dim)  # normal(0, 1)

    def forward(self, batch_size: int) -> Queries:
        """The same queries for each of `batch_size` images, in its middle."""
        content = self.content.weight.expand(batch_size, -1, -1)
        return Queries(content, content.new_zeros(*content.shape[:2], 4))


class BoxAligner(NoAligner):
    """Queries go into cross-attention as they are, described by their reference boxes."""

    def forward(
        self, x: Tensor, position: Tensor, boxes: Tensor, level: FeatureLevel
    ) -> AlignedQueries:
        """As in the parent, with the boxes as the descriptor, (B, N, 4)."""
        return super().forward(x, position, boxes, level)._replace(descriptor=boxes)


class DeformableCrossAttention(DeformableAttention):
    """Deformable attention of queries from `BoxAligner`, from the centres of their boxes."""

    num_points = 1  # of the aligner

    def forward(  # type: ignore[override]
        self, aligned: AlignedQueries, levels: Sequence[FeatureLevel]
    ) -> Tensor:
        """Returns: (B, N, C), read from all levels."""
        query = (aligned.content + aligned.position).squeeze(2)
        tokens = torch.cat([level.tokens for level in levels], dim=1)
        ratios = valid_ratios(levels).repeat(1, 1, 2)  # (B, L, 4)
        boxes = aligned.descriptor[:, :, None] * ratios[:, None]  # (B, N, L, 4)
        return super().forward(query, boxes, tokens, levels)

    def locate(self, reference: Tensor, offsets: Tensor, levels: Sequence[FeatureLevel]) -> Tensor:
        """As in the parent, for (B, N, L, 4) boxes."""
        return super().locate(reference[..., :2], offsets, levels)


class BoxDeformableCrossAttention(DeformableCrossAttention):
    """The same with offsets that scale with the box: half its size at P units."""

    def locate(self, reference: Tensor, offsets: Tensor, levels: Sequence[FeatureLevel]) -> Tensor:
        """As in the parent."""
        centre, size = reference[:, :, None, :, None].split(2, dim=-1)
        return centre + offsets * size / (2 * self.shape[-1])


class PointPredictionHead(PredictionHead):
    """One head for all layers, whose boxes lie around a point that stays where it is."""

    def reset_parameters(self) -> None:
        """Boxes start small."""
        super().reset_parameters()
        shrink(self)

    def for_layers(self, depth: int) -> list[nn.Module]:
        """Itself, once for all layers."""
        return [self]

    def forward(self, x: Tensor, reference: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As in the parent; the reference stays what it is."""
        logits, boxes, _ = super().forward(x, reference)
        return logits, boxes, reference


class RefiningPredictionHead(PredictionHead):
    """A head of each layer, the first of which turns points into boxes."""

    def for_layers(self, depth: int) -> list[nn.Module]:
        """One newly initialised head for each of `depth` layers; the first boxes start small."""
        first, *others = clones(self, depth)
        return [shrink(first), *others]


def shrink(head: PredictionHead) -> PredictionHead:
    """The head, with width and height of its boxes starting small."""
    last = [x for x in head.boxes if isinstance(x, nn.Linear)][-1]
    nn.init.constant_(last.bias[2:], SMALL_LOGIT)
    return head


class DeformableDecoder(Decoder):
    """Every layer reads all feature levels, from a point that the query's position tells.

    Args:
        layer: template of a layer; each layer is a newly initialised copy.
        head: template of a prediction head.
        position: query positions, which do not depend on boxes.
        dim: C.
        num_layers: how many.
    """

    def __init__(
        self,
        layer: nn.Module,
        head: PredictionHead,
        position: nn.Module,
        dim: int,
        num_layers: int,
    ):
        super().__init__(layer, head, position, levels=[0] * num_layers)
        self.reference = nn.Linear(dim, 2)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Points start spread out as the positions are."""
        nn.init.xavier_uniform_(self.reference.weight)
        nn.init.zeros_(self.reference.bias)

    def forward(self, queries: Queries, pyramid: Sequence[FeatureLevel]) -> Predictions:
        """Predictions after every layer."""
        points = at_least_float32(self.reference(self.position(queries.reference)))  # logits
        reference = torch.cat([points, torch.zeros_like(points)], dim=-1)
        # To the parent the pyramid is one level, which all layers read.
        return super().forward(queries._replace(reference=reference), [pyramid])  # type: ignore


class RefiningDeformableDecoder(DeformableDecoder):
    """With iterative box refinement: only the first layer starts from points, not boxes.

    Args:
        first_layer: the layer that starts from points.
        layer, head, position, dim, num_layers: as in the parent.
    """

    def __init__(
        self,
        first_layer: nn.Module,
        layer: nn.Module,
        head: PredictionHead,
        position: nn.Module,
        dim: int,
        num_layers: int,
    ):
        super().__init__(layer, head, position, dim, num_layers)
        self.layers[0] = clones(first_layer, 1)[0]
