"""Scaled dot-product attention with shared keys and a separable bias.

    attend(q, k, v, bias) = softmax(q @ k^T / sqrt(D) + bias) @ v

Paper: heads share their keys (section 4.2); the logarithm of the Gaussian around a keypoint
(section 4.5.1) is the sum of a bias over columns and one over rows.

`attend` has two kernels for these: all scores at once (the plain twin) and tiles of the scores
(`attend_tiled.py`). With keys per head and a dense bias it calls PyTorch's own.

Shapes: B images, N queries, S = H * W cells of one feature level, M heads, D channels of a head's
        query and key, E of its value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from ..layers import is_traced
from . import selected
from .attend_tiled import TiledAttention


class SeparableBias(NamedTuple):
    """Bias of attention scores that is the sum of one over columns and one over rows."""

    columns: Tensor  # (B, M, N, W)
    rows: Tensor  # (B, M, N, H)

    @classmethod
    def of(cls, bias: Tensor | None, query: Tensor, key: Tensor) -> SeparableBias:
        """Wrap a tensor that broadcasts to (B, M, N, S), as the bias of a map of one column."""
        zero = query.new_zeros(())
        rows = zero if bias is None else bias
        shape = query.shape[:3]
        return cls(zero.expand(*shape, 1), rows.expand(*shape, key.shape[2]))

    def dense(self) -> Tensor:
        """Return the (B, M, N, S) bias."""
        return (self.rows[..., :, None] + self.columns[..., None, :]).flatten(-2)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | SeparableBias | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Scaled dot-product attention.

    Args:
        query: (B, M, N, D).
        key: (B, M, S, D), or (B, 1, S, D) if all heads share their keys.
        value: (B, M, S, E).
        bias: added to the scaled scores; a tensor broadcasts to (B, M, N, S).
        dropout: probability of dropping an attention weight.

    Returns:
        (B, M, N, E).
    """
    if not isinstance(bias, SeparableBias):
        if key.shape[1] == query.shape[1]:
            return F.scaled_dot_product_attention(query, key, value, bias, dropout)
        bias = SeparableBias.of(bias, query, key)
    if dropout:
        return attend_plain(query, key, value, bias, dropout)
    # The number of tiles must not be baked into a graph.
    name = selected("attend", "plain" if is_traced() else "tiled")
    return BACKENDS[name](query, key, value, bias)


def attend_plain(
    query: Tensor, key: Tensor, value: Tensor, bias: SeparableBias, dropout: float = 0.0
) -> Tensor:
    """`attend` with all scores at once, which autograd keeps for the backward pass."""
    # Shared keys are never copied per head: the heads are folded into the query axis.
    folded = (query * query.shape[-1] ** -0.5).reshape(*key.shape[:2], -1, query.shape[-1])
    scores = (folded @ key.mT).reshape(*query.shape[:3], -1) + bias.dense()
    return F.dropout(scores.softmax(-1), dropout) @ value


def attend_tiled(query: Tensor, key: Tensor, value: Tensor, bias: SeparableBias) -> Tensor:
    """`attend` that never holds all scores."""
    # Autocast does not act inside of an autograd function: cast to the dtype of the values here.
    return TiledAttention.apply(query.to(value.dtype), key.to(value.dtype), value, *bias)


BACKENDS: dict[str, Callable[..., Tensor]] = {"tiled": attend_tiled, "plain": attend_plain}
