"""Conditional DETR: cross-attention compares content with content and position with position.

A row of tables 1 and 2. Conditional DETR: https://arxiv.org/abs/2108.06152, sections 3.2 and 3.3.
Its anchored queries serve SMCA-DETR as well: the learned position of a query determines its anchor,
the fixed point from which its boxes are predicted.

Shapes: B images, N queries, S cells of one feature level, M heads, C channels, K classes.
Units:  boxes are (cx, cy, w, h), fractions of the unpadded image; a reference is the logit of a box
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import MLP

from ...structures import AlignedQueries, FeatureLevel, Predictions, Queries
from ..attention import CrossAttention, SelfAttention, split_heads
from ..decoder import MAX_REFERENCE, Decoder, DecoderLayer, PredictionHead
from ..layers import at_least, at_least_float32, xavier_matrices_
from ..position import LearnedQueryPosition, sine


class AnchoredQueryPosition(LearnedQueryPosition):
    """One learned vector per query, and the anchor that an MLP predicts from it.

    Args:
        num_queries: N.
        dim: C.
        num_layers: layers of the MLP.
    """

    def __init__(self, num_queries: int, dim: int, num_layers: int = 2):
        super().__init__(num_queries, dim)
        at_least(1, num_layers=num_layers)
        self.anchor = MLP(dim, [dim] * (num_layers - 1) + [2])
        xavier_matrices_(self.anchor)

    def anchors(self, reference: Tensor) -> Tensor:
        """References at the anchors, with a size of 0.5, in the (B, N, 4) shape of `reference`."""
        points = at_least_float32(self.anchor(self.embedding.weight))
        return F.pad(points, (0, 2)).expand_as(reference)


class AnchoredDecoder(Decoder):
    """Decoder whose query-position module supplies the references, by its method `anchors`."""

    position: Any

    def forward(self, queries: Queries, pyramid: Sequence[FeatureLevel]) -> Predictions:
        """Return the predictions of all layers."""
        reference = self.position.anchors(queries.reference)
        return super().forward(queries._replace(reference=reference), pyramid)


class AnchoredPredictionHead(PredictionHead):
    """One head for all layers, behind a layer norm; boxes refine a reference that stays fixed."""

    shared = True

    def __init__(self, dim: int, num_classes: int):
        super().__init__(dim, num_classes)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, reference: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Same as in the parent, but the (clamped) reference is returned."""
        x = self.norm(x)
        reference = reference.clamp(-MAX_REFERENCE, MAX_REFERENCE)
        boxes = (reference + self.boxes(x)).sigmoid()
        return self.classes(x), boxes, reference


class ConditionalSelfAttention(SelfAttention):
    """Self-attention that uses the first half of the position; the second half is the target."""

    def forward(self, x: Tensor, position: Tensor, mask: Tensor | None = None) -> Tensor:
        """x is (B, N, C) and so is the result, position (B, N, 2 C); mask as in `Queries`."""
        return super().forward(x, position.chunk(2, dim=-1)[0], mask)


class ConditionalCrossAttention(CrossAttention):
    """Queries and keys concatenate a content and a spatial part within each head.

    The spatial part of a query is its target, the second half of its position; the first half,
    which self-attention uses, is ignored.

    Args: those of `DETRCrossAttention`.
    """

    num_points = 1

    def __init__(self, dim: int, num_heads: int, prior: nn.Module, dropout: float = 0.0):
        super().__init__(dim, num_heads, dropout)
        self.query_content = nn.Linear(dim, dim)
        self.query_target = nn.Linear(dim, dim)
        self.key_content = nn.Linear(dim, dim)
        self.key_position = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.output = nn.Linear(dim, dim)
        self.prior = prior
        self.reset_parameters()

    def queries_and_keys(self, aligned: AlignedQueries, level: FeatureLevel) -> Sequence[Tensor]:
        """Same as in the parent."""
        position, target = aligned.position.squeeze(2).chunk(2, dim=-1)
        key_position = self.key_position(level.position)
        query, key = self.contents(aligned.content.squeeze(2), position, level.tokens, key_position)
        return self._joined(query, self.query_target(target)), self._joined(key, key_position)

    def contents(
        self, x: Tensor, position: Tensor, tokens: Tensor, key_position: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Content parts of the (B, N, C) queries and of the (B, S, C) keys."""
        return self.query_content(x), self.key_content(tokens)

    def _joined(self, content: Tensor, position: Tensor) -> Tensor:
        """Concatenate two (B, S, C) tensors within each head: (B, M, S, 2 C / M)."""
        return torch.cat([split_heads(x, self.num_heads) for x in (content, position)], dim=-1)


class LocatedCrossAttention(ConditionalCrossAttention):
    """Conditional cross-attention of the first layer, whose contents say nothing yet.

    Positions are added to the content parts of queries and keys.
    """

    def __init__(self, dim: int, num_heads: int, prior: nn.Module, dropout: float = 0.0):
        super().__init__(dim, num_heads, prior, dropout)
        self.query_position = nn.Linear(dim, dim)

    def contents(
        self, x: Tensor, position: Tensor, tokens: Tensor, key_position: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Same as in the parent, with positions added."""
        query, key = super().contents(x, position, tokens, key_position)
        return query + self.query_position(position), key + key_position


class ConditionalQueryPosition(AnchoredQueryPosition):
    """Learned positions whose targets are their anchors."""

    def target(self, x: Tensor, boxes: Tensor) -> Tensor:
        """Sine embedding, (B, N, C), of the centres of the (B, N, 4) reference boxes."""
        return sine(boxes[..., :2], x.shape[-1])


class ConditionalDecoder(AnchoredDecoder):
    """Decoder that appends the target of each query to its position.

    From the second layer on, the content of a query scales the channels of its target's embedding.

    Args:
        layer, head, levels: as in `Decoder`.
        position: query positions, with the methods `anchors` and `target`.
        first_cross_attention: cross-attention of the first layer, in place of that of `layer`.
        dim: C.
    """

    def __init__(
        self,
        layer: DecoderLayer,
        head: PredictionHead,
        position: nn.Module,
        levels: Sequence[int],
        first_cross_attention: nn.Module,
        dim: int,
    ):
        first_layer = type(layer)(
            layer.self_attention, layer.aligner, first_cross_attention, *layer.widths
        )
        super().__init__(layer, head, position, levels, first_layer)
        self.scale = MLP(dim, [dim, dim])
        xavier_matrices_(self.scale)

    def locate(self, index: int, x: Tensor, boxes: Tensor) -> Tensor:
        """Positions and targets, (B, N, 2 C)."""
        target = self.position.target(x, boxes)
        scaled = target * self.scale(x) if index > 0 else target
        return torch.cat([self.position(boxes), scaled], dim=-1)
