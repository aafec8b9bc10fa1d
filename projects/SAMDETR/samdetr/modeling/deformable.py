"""Multi-scale deformable attention: every query reads a few points of every feature level.

Paper: section 4.3 (the encoder of SAM-DETR++). Deformable DETR: https://arxiv.org/abs/2010.04159.

Shapes: B images, N queries, S tokens of all levels together, M heads, L levels, P points of a level
        and head, C channels, D = C / M.
Units:  locations and references are (x, y) fractions of a padded feature map.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..structures import FeatureLevel
from .arguments import at_least, between
from .attention import check_heads
from .layers import at_least_float32, eager_on_cpu, numbers
from .ops.deformable import sample_levels


class DeformableAttention(nn.Module):
    """Attention to `num_points` predicted places around a reference point on every level.

    Args:
        dim: C.
        num_heads: M.
        num_levels: L.
        num_points: P.
        dropout: of the output (section 4.4: none).
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
        """Heads look in different directions, the further the higher the number of the point."""
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
            query: (B, N, C) with position.
            reference: (B, N, L, 2) where each query stands on each level.
            tokens: (B, S, C) of all levels, which the values are made of.
            levels: L levels, for their sizes and padding.

        Returns:
            (B, N, C).
        """
        padding = torch.cat([level.padding for level in levels], dim=1)
        value = self.value(tokens).masked_fill_(padding[..., None], 0.0)
        value = value.unflatten(-1, (self.shape[0], -1))  # (B, S, M, D)
        offsets = self.offsets(query).unflatten(-1, (*self.shape, 2))  # (B, N, M, L, P, 2)
        # In full precision: half of it would be coarser than a cell.
        locations = self.locate(reference, at_least_float32(offsets), levels)
        weights = softmax(self.weights(query).unflatten(-1, (self.shape[0], -1)).to(locations))
        weights = weights.unflatten(-1, self.shape[1:])
        sizes = [level.size for level in levels]
        return self.dropout(self.output(sample_levels(value, sizes, locations, weights)))

    def locate(self, reference: Tensor, offsets: Tensor, levels: Sequence[FeatureLevel]) -> Tensor:
        """The places to read, (B, N, M, L, P, 2), by offsets of that shape in cells."""
        cells = numbers([level.size[::-1] for level in levels], reference)  # (L, 2)
        return reference[:, :, None, :, None] + offsets / cells[:, None]


class DeformableSelfAttention(DeformableAttention):
    """Deformable attention of every token of the encoder, from the centre of its own cell."""

    def forward(  # type: ignore[override]
        self, x: Tensor, position: Tensor, levels: Sequence[FeatureLevel]
    ) -> Tensor:
        """x and position are (B, S, C), and so is the result."""
        return super().forward(x + position, cell_centres(levels), x, levels)


class ShortSoftmax(torch.autograd.Function):
    """Softmax over a few channels: on a CPU torch's own takes six times as long for 12 of them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Softmax over the last dimension."""
        y = (x - x.amax(-1, keepdim=True)).exp_()
        y.div_(y.sum(-1, keepdim=True))
        ctx.save_for_backward(y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Gradient of the input."""
        (y,) = ctx.saved_tensors
        slope = gradient * y
        return slope.addcmul_(y, slope.sum(-1, keepdim=True), value=-1)


def softmax(x: Tensor) -> Tensor:
    """Softmax over the last dimension, which is short."""
    applied: Tensor = ShortSoftmax.apply(x) if eager_on_cpu(x.device) else x.softmax(-1)
    return applied


def cell_centres(levels: Sequence[FeatureLevel]) -> Tensor:
    """Where the centre of every cell of every level lies on every level.

    Images of a batch are padded differently, and levels by whole cells: places are carried over as
    fractions of the unpadded image.

    Returns:
        (B, S, L, 2).
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
    """Unpadded parts of width and height of each level, (B, L, 2)."""
    return torch.stack([x.extent / numbers(x.size[::-1], x.extent) for x in levels], dim=1)
