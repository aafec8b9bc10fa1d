"""The kernels of attention; `attend` is the only place that calls one.

Section 4.2 gives every head of a query a keypoint of its own, and all heads the same keys; section
4.5.1 adds a Gaussian around each keypoint, which is the product of one along x and one along y.

Shapes: B images, N queries, S = H * W cells of one feature level, M heads, D channels of a head's
        query and key, E of its value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention

from .attend_tiled import StripAttention


class SeparableBias(NamedTuple):
    """Bias of attention scores that is the sum of one along the columns and one along the rows."""

    columns: Tensor  # (B, M, N, W)
    rows: Tensor  # (B, M, N, H)

    @classmethod
    def of(cls, bias: Tensor | None, query: Tensor, key: Tensor) -> SeparableBias:
        """A tensor that broadcasts to (B, M, N, S): cells without order are a map of one column."""
        zero = query.new_zeros(())
        rows = zero if bias is None else bias
        shape = query.shape[:3]
        return cls(zero.expand(*shape, 1), rows.expand(*shape, key.shape[2]))

    def dense(self) -> Tensor:
        """Returns: (B, M, N, S)."""
        return (self.rows[..., :, None] + self.columns[..., None, :]).flatten(-2)


Backend = Callable[[Tensor, Tensor, Tensor, SeparableBias], Tensor]


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | SeparableBias | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Scaled dot-product attention; the only place that calls an attention kernel.

    Args:
        query: (B, M, N, D).
        key: (B, M, S, D), or (B, 1, S, D) where all heads share their keys.
        value: (B, M, S, E).
        bias: added to the scaled scores; a tensor broadcasts to (B, M, N, S).
        dropout: probability with which an attention weight is dropped.

    Returns:
        (B, M, N, E). Where keys are shared or the bias is separable, the one of BACKENDS that
        `backend` names gives it, else PyTorch's own kernel.
    """
    if not isinstance(bias, SeparableBias):
        if key.shape[1] == query.shape[1]:
            return F.scaled_dot_product_attention(query, key, value, bias, dropout)
        bias = SeparableBias.of(bias, query, key)
    if dropout:
        return attend_plain(query, key, value, bias, dropout)
    return BACKENDS[backend](query, key, value, bias)


def attend_plain(
    query: Tensor, key: Tensor, value: Tensor, bias: SeparableBias, dropout: float = 0.0
) -> Tensor:
    """`attend` with all scores at once, which are kept for the backward pass."""
    # Shared keys are never copied per head: the heads are folded into the query axis.
    folded = (query * query.shape[-1] ** -0.5).reshape(*key.shape[:2], -1, query.shape[-1])
    scores = (folded @ key.mT).reshape(*query.shape[:3], -1) + bias.dense()
    return F.dropout(scores.softmax(-1), dropout) @ value


def attend_in_strips(query: Tensor, key: Tensor, value: Tensor, bias: SeparableBias) -> Tensor:
    """`attend` by `StripAttention`; in a graph, which is for maps of all sizes, as a whole."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return attend_plain(query, key, value, bias)
    # Autocast does not look into it: products are in the precision of the values.
    return StripAttention.apply(query.to(value.dtype), key.to(value.dtype), value, *bias)


def attend_flex(query: Tensor, key: Tensor, value: Tensor, bias: SeparableBias) -> Tensor:
    """`attend` by FlexAttention, compiled on a GPU; on a CPU it has no backward pass."""
    columns, rows = bias
    cell = torch.arange(key.shape[2], device=key.device)
    row, column = cell // columns.shape[-1], cell % columns.shape[-1]

    def biased(score: Tensor, b: Tensor, m: Tensor, n: Tensor, s: Tensor) -> Tensor:
        return score + columns[b, m, n, column[s]] + rows[b, m, n, row[s]]

    kernel = torch.compile(flex_attention) if query.is_cuda else flex_attention
    # Its grouped queries share values as well; expanded keys are a view.
    key = key.to(value.dtype).expand(*query.shape[:2], -1, -1)
    return kernel(query.to(value.dtype), key, value, score_mod=biased)


BACKENDS: dict[str, Backend] = {
    "strips": attend_in_strips,
    "plain": attend_plain,
    "flex": attend_flex,
}
backend = "strips"  # of `attend`
