"""Conditional DETR: cross-attention compares content with content and place with place.

A row of tables 1 and 2. Conditional DETR: https://arxiv.org/abs/2108.06152, sections 3.2 and 3.3.

Shapes: B images, N queries, S cells of one feature level, C channels.
Units:  boxes are (cx, cy, w, h), fractions of the unpadded image.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import MLP

from ...structures import AlignedQueries, FeatureLevel
from ..attention import SelfAttention, attend, check_heads, merge_heads, split_heads
from ..decoder import PredictionHead
from ..layers import reset_parameters, xavier_matrices_
from ..position import check_sine_dim, sine
from .anchored import AnchoredDecoder, AnchoredQueryPosition


class ConditionalSelfAttention(SelfAttention):
    """Self-attention that leaves the second half of the position, the target, to others."""

    def forward(self, x: Tensor, position: Tensor, mask: Tensor | None = None) -> Tensor:
        """x is (B, N, C) and so is the result, position (B, N, 2 C); mask as in `Queries`."""
        return super().forward(x, position.chunk(2, dim=-1)[0], mask)


class ConditionalCrossAttention(nn.Module):
    """Queries and keys are concatenations, in each head, of a content and a spatial part.

    The spatial part of a query is its target, the second half of its position; the first half, the
    position as self-attention knows it, is not used.

    Args:
        dim: C.
        num_heads: of the attention.
        prior: prior over keys, a module from aligned queries and a level to a bias.
        dropout: of the attention weights and of the output.
    """

    num_points = 1

    def __init__(self, dim: int, num_heads: int, prior: nn.Module, dropout: float = 0.0):
        super().__init__()
        check_heads(dim, num_heads)
        self.num_heads = num_heads
        self.query_content = nn.Linear(dim, dim)
        self.query_target = nn.Linear(dim, dim)
        self.key_content = nn.Linear(dim, dim)
        self.key_position = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.output = nn.Linear(dim, dim)
        self.prior = prior
        self.dropout = nn.Dropout(dropout)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The output starts without bias; the projections keep what they have."""
        nn.init.zeros_(self.output.bias)

    def forward(self, aligned: AlignedQueries, level: FeatureLevel) -> Tensor:
        """Returns: (B, N, C)."""
        position, target = aligned.position.squeeze(2).chunk(2, dim=-1)
        place = self.key_position(level.position)
        query, key = self.contents(aligned.content.squeeze(2), position, level.tokens, place)
        query = self._joined(query, self.query_target(target))
        key, value = self._joined(key, place), split_heads(self.value(level.tokens), self.num_heads)
        dropout = self.dropout.p if self.training else 0.0
        x = attend(query, key, value, self.prior(aligned, level), dropout)
        return self.dropout(self.output(merge_heads(x)))

    def contents(
        self, x: Tensor, position: Tensor, tokens: Tensor, place: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Content parts of queries (B, N, C) and keys (B, S, C); `place` is that of the keys."""
        return self.query_content(x), self.key_content(tokens)

    def _joined(self, content: Tensor, place: Tensor) -> Tensor:
        """Two of (B, ·, C) to (B, M, ·, 2 C / M), both parts in each head."""
        return torch.cat([split_heads(x, self.num_heads) for x in (content, place)], dim=-1)


class LocatedCrossAttention(ConditionalCrossAttention):
    """The same with positions added to the contents, which in the first layer say nothing yet."""

    def __init__(self, dim: int, num_heads: int, prior: nn.Module, dropout: float = 0.0):
        super().__init__(dim, num_heads, prior, dropout)
        self.query_position = nn.Linear(dim, dim)

    def contents(
        self, x: Tensor, position: Tensor, tokens: Tensor, place: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As in the parent."""
        query, key = super().contents(x, position, tokens, place)
        return query + self.query_position(position), key + place


class ConditionalQueryPosition(AnchoredQueryPosition):
    """Learned positions whose targets are their anchors."""

    def __init__(self, num_queries: int, dim: int):
        check_sine_dim(dim)
        super().__init__(num_queries, dim)

    def target(self, x: Tensor, boxes: Tensor) -> Tensor:
        """Sine embedding, (B, N, C), of what queries x with these reference boxes look at."""
        return sine(boxes[..., :2], x.shape[-1])


class ConditionalDecoder(AnchoredDecoder):
    """A decoder whose layers are told the targets of queries behind their positions.

    From the second layer on the content decides how a target is spread in cross-attention: it
    scales the channels of its embedding.

    Args:
        layer, head, levels: as in the parent.
        position: query positions, with `anchors` and `target`.
        first_cross_attention: takes the place of the layer's in the first layer.
        dim: C.
    """

    def __init__(
        self,
        layer: nn.Module,
        head: PredictionHead,
        position: nn.Module,
        levels: Sequence[int],
        first_cross_attention: nn.Module,
        dim: int,
    ):
        super().__init__(layer, head, position, levels)
        self.layers[0].cross_attention = first_cross_attention
        self.layers[0].apply(reset_parameters)
        self.scale = MLP(dim, [dim, dim])
        xavier_matrices_(self.scale)

    def locate(self, index: int, x: Tensor, boxes: Tensor) -> Tensor:
        """(B, N, 2 C): position and target."""
        target = self.position.target(x, boxes)
        scaled = target * self.scale(x) if index > 0 else target
        return torch.cat([self.position(boxes), scaled], dim=-1)
