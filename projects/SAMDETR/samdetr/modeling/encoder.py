"""The transformer encoder, with dense or multi-scale deformable self-attention.

Paper: section 3 (dense attention over one level, as in DETR) and section 4.3 (deformable attention
over several levels, in SAM-DETR++). Post-norm layers without a final norm.
Deformable DETR: https://arxiv.org/abs/2010.04159.

Shapes: B images, N queries, S tokens of all levels together, M heads, L levels, P points per level
        and head, C channels, D = C / M.
Units:  locations and references are (x, y) fractions of a padded feature map.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..structures import FeatureLevel
from .attention import MultiheadAttention, check_heads
from .layers import (
    FeedForward,
    Recomputed,
    at_least,
    at_least_float32,
    between,
    clones,
    numbers,
    reset_parameters,
    xavier_matrices_,
)
from .ops.deformable import sample_levels, softmax


class Encoder(nn.Module):
    """Stack of encoder layers over the tokens of all feature levels.

    Args:
        layer: template of a layer; each layer is a newly initialised copy.
        num_layers: number of layers.
    """

    def __init__(self, layer: nn.Module, num_layers: int):
        super().__init__()
        at_least(0, num_layers=num_layers)
        self.layers = nn.ModuleList(clones(layer, num_layers))

    def forward(self, levels: Sequence[FeatureLevel]) -> list[FeatureLevel]:
        """Return the same levels with encoded tokens."""
        x = torch.cat([level.tokens for level in levels], dim=1)
        position = torch.cat([level.position for level in levels], dim=1)
        for layer in self.layers:
            x = layer(x, self.locate(x, position), levels)
        lengths = [level.tokens.shape[1] for level in levels]
        return [level._replace(tokens=y) for level, y in zip(levels, x.split(lengths, dim=1))]

    def locate(self, x: Tensor, position: Tensor) -> Tensor:
        """Position encoding that a layer gets with the tokens x; all are (B, S, C)."""
        return position


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward network, each with a residual connection and post-norm.

    Args:
        attention: self-attention over the tokens of all levels.
        dim: C.
        hidden_dim: channels of the hidden layer of the feed-forward network.
        dropout: rate in the feed-forward network.
    """

    activation: type[nn.Module] = nn.ReLU

    def __init__(self, attention: nn.Module, dim: int, hidden_dim: int, dropout: float = 0.0):
        super().__init__()
        self.attention = attention
        self.norm1 = nn.LayerNorm(dim)
        self.feed_forward = FeedForward(dim, hidden_dim, dropout, self.activation)
        self.norm2 = nn.LayerNorm(dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise every matrix by Xavier, as in DETR, except where attention has its own way."""
        xavier_matrices_(self)
        reset_parameters(self.attention)

    def forward(self, x: Tensor, position: Tensor, levels: Sequence[FeatureLevel]) -> Tensor:
        """Encode (B, S, C) tokens x with (B, S, C) positions; returns (B, S, C)."""
        x = self.norm1(x + self.attention(x, position, levels))
        return self.norm2(x + self.feed_forward(x))


class RecomputedEncoderLayer(Recomputed, EncoderLayer):
    """`EncoderLayer` with activation checkpointing."""


class DenseAttention(MultiheadAttention):
    """Self-attention of every token to every unpadded token."""

    def forward(  # type: ignore[override]
        self, x: Tensor, position: Tensor, levels: Sequence[FeatureLevel]
    ) -> Tensor:
        """x and position are (B, S, C), and so is the result."""
        padding = torch.cat([level.padding for level in levels], dim=1)  # (B, S)
        bias = position.new_zeros(padding.shape).masked_fill(padding, float("-inf"))
        return super().forward(x + position, x + position, x, bias[:, None, None])


class DeformableAttention(nn.Module):
    """Attention to `num_points` predicted locations around a reference point on every level.

    Args:
        dim: C.
        num_heads: M.
        num_levels: L.
        num_points: P.
        dropout: rate on the output (section 4.4: none).
    """

    def __init__(
        self, dim: int, num_heads: int, num_levels: int, num_points: int, dropout: float = 0.0
    ):
        super().__init__()
        check_heads(dim, num_heads)
        at_least(1, num_levels=num_levels, num_points=num_points)
        between(0, 1, dropout=dropout)
        self.num_levels = num_levels
        self.shape = (num_heads, num_levels, num_points)
        count = num_heads * num_levels * num_points
        self.offsets = nn.Linear(dim, 2 * count)
        self.weights = nn.Linear(dim, count)
        self.value = nn.Linear(dim, dim)
        self.output = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Spread the points of each head along a direction of its own, one cell apart."""
        num_heads, _, num_points = self.shape
        for linear in (self.offsets, self.weights, self.value, self.output):
            nn.init.zeros_(linear.bias)
        nn.init.zeros_(self.offsets.weight)
        nn.init.zeros_(self.weights.weight)
        nn.init.xavier_uniform_(self.value.weight)
        nn.init.xavier_uniform_(self.output.weight)
        angle = torch.arange(num_heads) * (2 * math.pi / num_heads)
        direction = torch.stack([angle.cos(), angle.sin()], dim=-1)
        direction = direction / direction.abs().amax(-1, keepdim=True)  # (M, 2) on a square
        distance = torch.arange(1, num_points + 1)[:, None]  # (P, 1) cells
        offsets = (direction[:, None, None] * distance).expand(*self.shape, 2)
        with torch.no_grad():
            self.offsets.bias.copy_(offsets.flatten())

    def forward(
        self, query: Tensor, reference: Tensor, tokens: Tensor, levels: Sequence[FeatureLevel]
    ) -> Tensor:
        """Attend from queries to all levels.

        Args:
            query: (B, N, C), including position.
            reference: (B, N, L, 2) reference point of each query on each level.
            tokens: (B, S, C) tokens of all levels, from which the values are projected.
            levels: L levels, for their sizes and padding.

        Returns:
            (B, N, C).
        """
        padding = torch.cat([level.padding for level in levels], dim=1)
        value = self.value(tokens).masked_fill_(padding[..., None], 0.0)
        value = value.unflatten(-1, (self.shape[0], -1))  # (B, S, M, D)
        offsets = self.offsets(query).unflatten(-1, (*self.shape, 2))  # (B, N, M, L, P, 2)
        # At least float32: the steps of bfloat16 would be coarser than a cell.
        locations = self.locate(reference, at_least_float32(offsets), levels)
        weights = softmax(self.weights(query).unflatten(-1, (self.shape[0], -1)).to(locations))
        weights = weights.unflatten(-1, self.shape[1:])
        sizes = [level.size for level in levels]
        return self.dropout(self.output(sample_levels(value, sizes, locations, weights)))

    def locate(self, reference: Tensor, offsets: Tensor, levels: Sequence[FeatureLevel]) -> Tensor:
        """Sampling locations for (B, N, M, L, P, 2) offsets in cells, of the same shape."""
        cells = numbers([level.size[::-1] for level in levels], reference)  # (L, 2)
        return reference[:, :, None, :, None] + offsets / cells[:, None]


class DeformableSelfAttention(DeformableAttention):
    """Deformable attention of every token, with the centre of its cell as the reference point."""

    def forward(  # type: ignore[override]
        self, x: Tensor, position: Tensor, levels: Sequence[FeatureLevel]
    ) -> Tensor:
        """x and position are (B, S, C), and so is the result."""
        return super().forward(x + position, cell_centres(levels), x, levels)


def cell_centres(levels: Sequence[FeatureLevel]) -> Tensor:
    """Centre of every cell of every level, located on every level: (B, S, L, 2).

    Images of a batch are padded differently, and levels by whole cells, so a centre is carried
    from level to level as a fraction of the unpadded image.
    """
    ratios = valid_ratios(levels)
    centres = []
    for level, ratio in zip(levels, ratios.unbind(1)):
        height, width = level.size
        y = (torch.arange(height, device=ratio.device) + 0.5) / height
        x = (torch.arange(width, device=ratio.device) + 0.5) / width
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).flatten(0, 1)
        centres.append(grid / ratio[:, None])
    return torch.cat(centres, dim=1)[:, :, None] * ratios[:, None]


def valid_ratios(levels: Sequence[FeatureLevel]) -> Tensor:
    """Unpadded fractions of the width and height of each level, (B, L, 2)."""
    return torch.stack([x.extent / numbers(x.size[::-1], x.extent) for x in levels], dim=1)
