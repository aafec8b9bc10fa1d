"""The attention modules of encoder and decoder.

Paper: figure 2 (a) and Eq. 1. DETR: https://arxiv.org/abs/2005.12872.

Shapes: B images, N queries, S cells of one feature level, M heads (and keypoints, one per head),
        C channels, E channels of a head's value.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import MLP

from ..structures import AlignedQueries, FeatureLevel
from .layers import at_least, between
from .ops.attend import SeparableBias, attend


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, S, C) to (B, M, S, C / M)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """(B, M, N, E) to (B, N, M * E)."""
    return x.transpose(1, 2).flatten(2)


def check_heads(dim: int, num_heads: int) -> None:
    """Raise ValueError unless `num_heads` divides `dim`."""
    at_least(1, dim=dim, num_heads=num_heads)
    if dim % num_heads:
        raise ValueError(f"dim is {dim}, must be a multiple of num_heads={num_heads}")


class Attention(nn.Module):
    """Base of the attention modules: kernel and dropout; subclasses have the layer `output`.

    Args:
        dim: C.
        num_heads: M.
        dropout: rate on the attention weights and on the output (section 4.4: none).
    """

    output: nn.Linear

    def __init__(self, dim: int, num_heads: int, dropout: float = 0.0):
        super().__init__()
        check_heads(dim, num_heads)
        between(0, 1, dropout=dropout)
        self.num_heads = num_heads
        self.dropout = nn.Dropout(dropout)

    def reset_parameters(self) -> None:
        """Zero the bias of the output; the projections keep their initialisation."""
        nn.init.zeros_(self.output.bias)

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | SeparableBias | None
    ) -> Tensor:
        """(B, M, N, D) queries to (B, N, C) outputs; keys, values and bias as in `attend`."""
        dropout = self.dropout.p if self.training else 0.0
        x = attend(query, key, value, bias, dropout)
        return self.dropout(self.output(merge_heads(x)))


class MultiheadAttention(Attention):
    """Multi-head attention of the original transformer, weight-compatible with torch's.

    Args: those of `Attention`.
    """

    def __init__(self, dim: int, num_heads: int, dropout: float = 0.0):
        super().__init__(dim, num_heads, dropout)
        self.in_proj = nn.Linear(dim, 3 * dim)  # query, key and value; initialised as one matrix
        self.output = nn.Linear(dim, dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Zero the biases."""
        super().reset_parameters()
        nn.init.zeros_(self.in_proj.bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        bias: Tensor | SeparableBias | None = None,
    ) -> Tensor:
        """Attend from (B, N, C) queries to (B, S, C) keys and values; bias as in `attend`."""
        query, key, value = self.project(query, key, value)
        return self.attend(query, key, value, bias)

    def project(self, *inputs: Tensor) -> list[Tensor]:
        """Project (B, S, C) queries, keys and values, in this order: (B, M, S, C / M) each."""
        weights, biases = self.in_proj.weight.chunk(3), self.in_proj.bias.chunk(3)
        return [split_heads(F.linear(*x), self.num_heads) for x in zip(inputs, weights, biases)]


class DETRSelfAttention(MultiheadAttention):
    """Self-attention among queries as in DETR: position is added before the projections."""

    def forward(  # type: ignore[override]
        self, x: Tensor, position: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """x and position are (B, N, C), and so is the result; mask as in `Queries`."""
        return super().forward(x + position, x + position, x, mask)


class SelfAttention(Attention):
    """Self-attention among queries, with separate projections of content and position.

    Args: those of `Attention`.
    """

    def __init__(self, dim: int, num_heads: int, dropout: float = 0.0):
        super().__init__(dim, num_heads, dropout)
        self.query_content = nn.Linear(dim, dim)
        self.query_position = nn.Linear(dim, dim)
        self.key_content = nn.Linear(dim, dim)
        self.key_position = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.output = nn.Linear(dim, dim)
        self.reset_parameters()

    def forward(self, x: Tensor, position: Tensor, mask: Tensor | None = None) -> Tensor:
        """x and position are (B, N, C), and so is the result; mask as in `Queries`."""
        query = self.query_content(x) + self.query_position(position)
        key = self.key_content(x) + self.key_position(position)
        query, key, value = (split_heads(y, self.num_heads) for y in (query, key, self.value(x)))
        return self.attend(query, key, value, mask)


class PaddingPrior(nn.Module):
    """Prior over keys that only masks padded cells, for any number of heads."""

    num_points: int | None = None

    def forward(self, aligned: AlignedQueries, level: FeatureLevel) -> Tensor | SeparableBias:
        """Return the (B, 1, 1, S) bias, -inf on padded cells and 0 elsewhere."""
        bias = level.position.new_zeros(level.padding.shape)
        return bias.masked_fill(level.padding, float("-inf"))[:, None, None]


class DETRCrossAttention(MultiheadAttention):
    """Cross-attention of the original DETR, for one vector per query.

    Args:
        dim, num_heads, dropout: as in `MultiheadAttention`.
        prior: prior over keys, from aligned queries and a level to a bias.
    """

    num_points = 1

    def __init__(self, dim: int, num_heads: int, prior: nn.Module, dropout: float = 0.0):
        super().__init__(dim, num_heads, dropout)
        self.prior = prior

    def forward(self, aligned: AlignedQueries, level: FeatureLevel) -> Tensor:  # type: ignore[override]
        """Return (B, N, C)."""
        query, key = self.inputs(aligned, level)
        return super().forward(query, key, level.tokens, self.prior(aligned, level))

    def queries_and_keys(self, aligned: AlignedQueries, level: FeatureLevel) -> list[Tensor]:
        """Same as in `CrossAttention`."""
        return self.project(*self.inputs(aligned, level))

    def inputs(self, aligned: AlignedQueries, level: FeatureLevel) -> tuple[Tensor, Tensor]:
        """(B, N, C) queries and (B, S, C) keys before their projections."""
        return (aligned.content + aligned.position).squeeze(2), level.tokens + level.position


class CrossAttention(Attention, ABC):
    """Base of the cross-attention modules whose queries and keys have projections of their own.

    Subclasses have the linear layer `value` and the module `prior`.
    """

    value: nn.Linear
    prior: nn.Module

    def forward(self, aligned: AlignedQueries, level: FeatureLevel) -> Tensor:
        """Return (B, N, C)."""
        query, key = self.queries_and_keys(aligned, level)
        value = split_heads(self.value(level.tokens), self.num_heads)
        return self.attend(query, key, value, self.prior(aligned, level))

    @abstractmethod
    def queries_and_keys(self, aligned: AlignedQueries, level: FeatureLevel) -> Sequence[Tensor]:
        """Project (B, heads, N, D) queries and (B, heads or 1, S, D) keys, as `attend` has them."""


class AlignedCrossAttention(CrossAttention):
    """Cross-attention of SAM-DETR: the query of every head is the feature of its own keypoint.

    All heads share the projections, and so the keys, which are as wide as the queries (C); the
    values are split among the heads as usual.

    Args:
        dim, dropout: as in `Attention`.
        num_heads: M, also the number of keypoints.
        prior: prior over keys, from aligned queries and a level to a bias.
    """

    def __init__(self, dim: int, num_heads: int, prior: nn.Module, dropout: float = 0.0):
        super().__init__(dim, num_heads, dropout)
        if prior.num_points not in (None, num_heads):
            raise ValueError(f"num_heads is {num_heads}, but prior.num_points {prior.num_points}")
        self.num_points = num_heads
        self.query_content = nn.Linear(dim, dim)
        self.query_position = MLP(dim, [dim, dim])
        self.key_content = nn.Linear(dim, dim)
        self.key_position = MLP(dim, [dim, dim])
        self.value = nn.Linear(dim, dim)
        self.output = nn.Linear(dim, dim)
        self.prior = prior
        self.reset_parameters()

    def queries_and_keys(self, aligned: AlignedQueries, level: FeatureLevel) -> Sequence[Tensor]:
        """Same as in the parent."""
        query = self.query_content(aligned.content) + self.query_position(aligned.position)
        key = self.key_content(level.tokens) + self.key_position(level.position)
        return self.heads(query, key)

    def heads(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """Arrange (B, N, M, C) queries and (B, S, C) keys by head, as `attend` takes them."""
        return query.transpose(1, 2), key[:, None]


class ConcatenatedCrossAttention(AlignedCrossAttention):
    """`AlignedCrossAttention` for a number of keypoints that differs from the number of heads.

    The vectors of all keypoints are concatenated (Eq. 5) and the channels split among the heads, as
    in any multi-head attention; the keys are repeated for each keypoint. With

    - as many keypoints as heads, every head has a keypoint, as in the parent;
    - fewer, adjacent heads share a keypoint and compare different channels of it (a single vector
      is split among all heads: ordinary multi-head attention);
    - more, a head has several adjacent keypoints, whose scores add up.

    The parameters are those of the parent for any number of keypoints.

    Args:
        dim, num_heads, dropout: as in the parent.
        num_points: M; a multiple or a divisor of the number of heads.
        prior: as in the parent; `GaussianPrior` needs one keypoint per head.
    """

    def __init__(
        self, dim: int, num_heads: int, num_points: int, prior: nn.Module, dropout: float = 0.0
    ):
        if num_points < 1 or (num_heads % num_points and num_points % num_heads):
            raise ValueError(
                f"num_points is {num_points}, must be a multiple or a divisor of "
                f"num_heads={num_heads}"
            )
        if num_points != num_heads and prior.num_points is not None:
            raise ValueError(
                f"{type(prior).__name__} needs one keypoint per head: num_points is {num_points} "
                f"and num_heads {num_heads}"
            )
        super().__init__(dim, num_heads, prior, dropout)
        self.num_points = num_points
        self.points_of_head = max(1, num_points // num_heads)
        self.heads_of_point = max(1, num_heads // num_points)
        self.head_dim = dim // self.heads_of_point
        self.key_copies = num_points if num_points < num_heads else 1  # one serves all heads

    def heads(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """Same as in the parent, with `head_dim` channels per head."""
        shape = (self.num_heads, self.points_of_head, self.head_dim)
        query = query.flatten(2).unflatten(2, shape)
        # All keypoints of a head have the same keys, so their scores can be added in the query; the
        # factor turns the kernel's scale into that of all channels of the head.
        query = query.sum(3) * self.points_of_head**-0.5  # (B, N, heads, head_dim)
        key = split_heads(key, self.heads_of_point)
        return query.transpose(1, 2), key.repeat(1, self.key_copies, 1, 1)
