"""Scaled dot-product attention with shared keys and a separable bias.

    attend(q, k, v, bias) = softmax(q @ k^T / sqrt(D) + bias) @ v

Paper: heads share their keys (section 4.2); the logarithm of the Gaussian around a keypoint
(section 4.5.1) is the sum of a bias over columns and one over rows.

`attend` has two kernels for these: all scores at once (the plain twin) and tiles of the scores.
With keys per head and a dense bias it calls PyTorch's own.

300 queries of 8 heads have 2,400 scores for each of the 13,400 cells of a fine level: 128 MB in
every decoder layer. As in FlashAttention (https://arxiv.org/abs/2205.14135), the second kernel
computes scores for one tile at a time, a few rows of the map that fit into the cache; running sums
of the softmax are rescaled from tile to tile, and the backward pass computes the scores again. Its
scores are in powers of two: on a CPU PyTorch's exp is slower than exp2, and 40 times slower where
results underflow.

Shapes: B images, N queries, S = H * W cells of one feature level, M heads, D channels of a head's
        query and key, E of its value; G sets of keys: M, or 1 if all heads share their keys. In a
        block of images, M and G count the heads and sets of all its images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import repeat
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..layers import is_traced, precision
from . import selected

# Scores of one tile. 4 MB of float32 stay in the cache of a CPU; a GPU wants larger products.
CPU_SCORES, GPU_SCORES = 2**20, 2**26
LOG2_E = math.log2(math.e)


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


class TiledAttention(torch.autograd.Function):
    """Attention with shared keys or keys per head, and a separable bias of the scores."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, columns: Tensor, rows: Tensor
    ) -> Tensor:
        """Attend, block by block.

        Args:
            query: (B, M, N, D).
            key: (B, G, S, D), of the same dtype.
            value: (B, M, S, E), of the same dtype.
            columns, rows: (B, M, N, W) and (B, M, N, H), whose sums are the bias.

        Returns:
            (B, M, N, E); zero for queries whose bias is -inf on all cells.
        """
        batch, heads, queries, _ = query.shape
        count = images_per_block(columns, rows)
        if count == 1:
            # Heads after queries in memory, which merging the heads needs.
            out = value.new_empty(batch, queries, heads, value.shape[-1]).transpose(1, 2)
        else:
            out = value.new_empty(batch, heads, queries, value.shape[-1])
        peak, total = query.new_empty(2, batch, heads, queries, 1, dtype=precision(query.dtype))
        for tensors in blocks(count, query, key, columns, rows, value, out, peak, total):
            attend_block(TiledScores(*tensors[:4]), *tensors[4:])
        # The logarithm of the sum gives the weights in one step, and does not overflow.
        ctx.save_for_backward(query, key, columns, rows, value, out, peak.add_(total.log2_()))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the arguments of `forward`."""
        saved = ctx.saved_tensors  # once: with activation checkpointing there is no second time
        query, key, columns, rows, value, *_ = saved
        biased = any(ctx.needs_input_grad[3:])
        count = images_per_block(columns, rows)
        layout = torch.preserve_format if count == 1 else torch.contiguous_format
        of_inputs = [
            torch.zeros_like(x, dtype=precision(x.dtype), memory_format=layout)
            for x in (query, key, value)
        ]
        of_bias = [x.new_zeros(x.shape) if biased else None for x in (columns, rows)]
        for tensors in blocks(count, *saved, gradient, *of_inputs, *of_bias):
            differentiate_block(TiledScores(*tensors[:4]), *tensors[4:])
        inputs = (query, key, value, columns, rows)
        gradients = zip([*of_inputs, *of_bias], inputs)
        return tuple(None if g is None else g.to(x.dtype) for g, x in gradients)


class TiledScores:
    """Scores of a block of images, a tile of a few rows of cells at a time.

    Args:
        query: (M, N, D).
        key: (G, S, D).
        columns, rows: (M, N, W) and (M, N, H) biases.
    """

    def __init__(self, query: Tensor, key: Tensor, columns: Tensor, rows: Tensor):
        self.scale = query.shape[-1] ** -0.5
        # Heads that share keys are one matrix product.
        self.query = (self.scale * query).reshape(len(key), -1, query.shape[-1])
        self.key, self.columns, self.rows = key, columns, rows
        limit = scores_per_tile(query) // columns.numel()
        count = -(-rows.shape[-1] // max(1, limit))
        self.height = -(-rows.shape[-1] // count)  # rows of a tile; tiles are about equally high

    def buffer(self) -> Tensor:
        """Allocate memory for the scores of a tile."""
        size = self.columns.numel() * self.height
        return self.query.new_empty(size, dtype=precision(self.query.dtype))

    def __iter__(self) -> Iterator[tuple[slice, slice, Tensor]]:
        """Yield rows, cells and (M, N, cells) scores of each tile, which share one buffer."""
        buffer = self.buffer()
        height, width = self.rows.shape[-1], self.columns.shape[-1]
        for top in range(0, height, self.height):
            rows = slice(top, min(top + self.height, height))
            cells = slice(rows.start * width, rows.stop * width)
            shape = (*self.rows.shape[:2], rows.stop - rows.start, width)
            scores = buffer[: math.prod(shape)].view(shape)
            torch.add(self.columns[:, :, None], self.rows[..., rows, None], out=scores)
            product = (self.query, self.key[:, cells].mT, LOG2_E)
            add_product(self.grouped(scores), *product, LOG2_E)
            yield rows, cells, scores.flatten(2)

    def grouped(self, scores: Tensor) -> Tensor:
        """View the scores of M heads as those of G sets of keys."""
        return scores.view(*self.query.shape[:2], -1)


def scores_per_tile(x: Tensor) -> int:
    """Largest number of scores of a tile."""
    return CPU_SCORES if x.is_cpu else GPU_SCORES


def images_per_block(columns: Tensor, rows: Tensor) -> int:
    """Number of images whose scores fit into one tile together, at least 1."""
    scores_of_image = rows[0].numel() * columns.shape[-1]
    return max(1, min(len(rows), scores_per_tile(rows) // max(1, scores_of_image)))


def blocks(count: int, *tensors: Tensor | None) -> Iterator[list[Any]]:
    """Yield the next `count` images of each tensor, with their heads in the first dimension."""
    chunks = [repeat(None) if x is None else x.split(count) for x in tensors]
    for block in zip(*chunks):
        yield [None if x is None else x.flatten(0, 1) for x in block]


def attend_block(
    scores_of_block: TiledScores, value: Tensor, out: Tensor, peak: Tensor, total: Tensor
) -> None:
    """Attend within a block, and write the result into the last three arguments.

    Args:
        value: (M, S, E).
        out: (M, N, E).
        peak: (M, N, 1) highest scores.
        total: (M, N, 1) sums of exp2(score - peak).
    """
    peak.fill_(torch.finfo(peak.dtype).min)  # not -inf: (-inf) - (-inf) is NaN
    total.zero_()
    sums = torch.zeros_like(out, dtype=peak.dtype, memory_format=torch.contiguous_format)
    for _, cells, scores in scores_of_block:
        highest = torch.maximum(peak, scores.amax(-1, keepdim=True))
        weights = scores.sub_(highest).exp2_()
        shrink = peak.sub_(highest).exp2_()
        total.mul_(shrink).add_(weights.sum(-1, keepdim=True))
        add_product(sums.mul_(shrink), weights, value[:, cells])
        peak.copy_(highest)
    total.clamp_(min=1)  # below 1 only without any cell: the highest score has weight 1
    out.copy_(sums.div_(total))


def differentiate_block(
    scores_of_block: TiledScores,
    value: Tensor,
    out: Tensor,
    total: Tensor,
    gradient: Tensor,
    of_query: Tensor,
    of_key: Tensor,
    of_value: Tensor,
    of_columns: Tensor | None,
    of_rows: Tensor | None,
) -> None:
    """Add the gradients of the inputs of a block to the last five arguments, which are zeros.

    Args:
        value, out: as in `attend_block`.
        total: (M, N, 1), logarithm to base 2 of the sum of exp2(score).
        gradient: (M, N, E) gradient of `out`.
    """
    # The softmax subtracts the mean of its weights' gradients.
    offset = -(gradient.to(total.dtype) * out).sum(-1, keepdim=True)
    of_scaled = torch.zeros_like(scores_of_block.query, dtype=total.dtype)
    buffer = scores_of_block.buffer()
    for rows, cells, scores in scores_of_block:
        weights = scores.sub_(total).exp2_()
        add_product(of_value[:, cells], weights.mT, gradient)
        of_scores = buffer[: weights.numel()].view_as(weights).copy_(offset.expand_as(weights))
        add_product(of_scores, gradient, value[:, cells].mT)
        of_scores.mul_(weights)
        if of_columns is not None and of_rows is not None:
            grid = of_scores.unflatten(2, (-1, of_columns.shape[-1]))
            of_columns.add_(grid.sum(2))
            of_rows[..., rows] = grid.sum(3)
        grouped = scores_of_block.grouped(of_scores)
        add_product(of_scaled, grouped, scores_of_block.key[:, cells], scores_of_block.scale)
        add_product(of_key[:, cells], grouped.mT, scores_of_block.query)
    of_query.copy_(of_scaled.view_as(of_query))


def add_product(
    out: Tensor, left: Tensor, right: Tensor, scale: float = 1.0, beta: float = 1.0
) -> None:
    """In place: out = beta * out + scale * left @ right, multiplied in the dtype of `right`."""
    if right.dtype == out.dtype:
        torch.baddbmm(out, left, right, beta=beta, alpha=scale, out=out)
    else:
        out.mul_(beta).add_(torch.bmm(left.to(right.dtype), right), alpha=scale)
