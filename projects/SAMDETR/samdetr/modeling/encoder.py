"""The transformer encoder.

Paper: section 3; post-norm layers as in DETR, without a final norm.

Shapes: B images, S tokens of all feature levels together, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..structures import FeatureLevel
from .arguments import at_least
from .attention import MultiheadAttention
from .layers import FeedForward, clones, reset_parameters, xavier_matrices_


class DenseAttention(MultiheadAttention):
    """Self-attention of every token to every token that lies in the image."""

    def forward(  # type: ignore[override]
        self, x: Tensor, position: Tensor, levels: Sequence[FeatureLevel]
    ) -> Tensor:
        """x and position are (B, S, C), and so is the result."""
        padding = torch.cat([level.padding for level in levels], dim=1)  # (B, S)
        bias = position.new_zeros(padding.shape).masked_fill(padding, float("-inf"))
        return super().forward(x + position, x + position, x, bias[:, None, None])


class EncoderLayer(nn.Module):
    """Attention and feed-forward network, each added to its input and normalised.

    Args:
        attention: self-attention over the tokens of all levels.
        dim: C.
        hidden_dim: channels between the two layers of the feed-forward network.
        dropout: of the feed-forward network.
    """

    def __init__(self, attention: nn.Module, dim: int, hidden_dim: int, dropout: float = 0.0):
        super().__init__()
        self.attention = attention
        self.norm1 = nn.LayerNorm(dim)
        self.feed_forward = FeedForward(dim, hidden_dim, dropout)
        self.norm2 = nn.LayerNorm(dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier for every matrix, as in DETR; attention has the last word on its own."""
        xavier_matrices_(self)
        reset_parameters(self.attention)

    def forward(self, x: Tensor, position: Tensor, levels: Sequence[FeatureLevel]) -> Tensor:
        """x and position are (B, S, C), and so is the result."""
        x = self.norm1(x + self.attention(x, position, levels))
        return self.norm2(x + self.feed_forward(x))


class Encoder(nn.Module):
    """A stack of encoder layers over the tokens of all feature levels.

    Args:
        layer: template of a layer; each layer is a newly initialised copy.
        num_layers: how many.
    """

    def __init__(self, layer: nn.Module, num_layers: int):
        super().__init__()
        at_least(0, num_layers=num_layers)
        self.layers = nn.ModuleList(clones(layer, num_layers))

    def forward(self, levels: Sequence[FeatureLevel]) -> list[FeatureLevel]:
        """The same levels with encoded tokens."""
        x = torch.cat([level.tokens for level in levels], dim=1)
        position = torch.cat([level.position for level in levels], dim=1)
        for layer in self.layers:
            x = layer(x, self.locate(x, position), levels)
        lengths = [level.tokens.shape[1] for level in levels]
        return [level._replace(tokens=y) for level, y in zip(levels, x.split(lengths, dim=1))]

    def locate(self, x: Tensor, position: Tensor) -> Tensor:
        """Positions that a layer is told of tokens x; all are (B, S, C)."""
        return position
