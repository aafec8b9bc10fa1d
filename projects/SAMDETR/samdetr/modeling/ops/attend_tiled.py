"""Attention that never holds all its scores, neither forward nor backward.

The 2,400 scores (300 queries, 8 heads) of each of the 13,400 cells of a fine level are 128 MB in
every decoder layer. Here they are made for a strip of the feature map at a time, small enough to
stay in the cache of a CPU, and made again in the backward pass, as in FlashAttention:
https://arxiv.org/abs/2205.14135.

Shapes: B images, N queries, S = H * W cells of one feature level, M heads, D channels of a head's
        query and key, E of its value; G sets of keys: M, or 1 that all heads share.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import repeat
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..layers import precision

# Scores of one strip. 4 MB of float32 stay in the cache of a CPU; a GPU wants larger products.
CPU_SCORES, GPU_SCORES = 2**20, 2**26
POWERS = math.log2(math.e)  # of two in one of e


class StripAttention(torch.autograd.Function):
    """Attention with shared keys or a key per head, and a separable bias of the scores."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, columns: Tensor, rows: Tensor
    ) -> Tensor:
        """Attend, a few images at a time.

        Args:
            query: (B, M, N, D).
            key: (B, G, S, D), of the same dtype.
            value: (B, M, S, E), of the same dtype.
            columns, rows: (B, M, N, W) and (B, M, N, H), whose sums are the bias.

        Returns:
            (B, M, N, E); zero for queries whose bias is -inf on all cells.
        """
        batch, heads, queries, _ = query.shape
        count = images_at_once(columns, rows)
        if count == 1:
            # In memory heads come after queries, as whoever merges them needs it.
            out = value.new_empty(batch, queries, heads, value.shape[-1]).transpose(1, 2)
        else:
            out = value.new_empty(batch, heads, queries, value.shape[-1])
        peak, total = query.new_empty(2, batch, heads, queries, 1, dtype=precision(query.dtype))
        for tensors in blocks(count, query, key, columns, rows, value, out, peak, total):
            attend_block(Strips(*tensors[:4]), *tensors[4:])
        # So that backward has the weights at once, and nothing that outgrows half precision.
        ctx.save_for_backward(query, key, columns, rows, value, out, peak.add_(total.log2_()))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the arguments of `forward`."""
        saved = ctx.saved_tensors  # once: a recomputed layer gives them no second time
        query, key, columns, rows, value, *_ = saved
        biased = any(ctx.needs_input_grad[3:])
        count = images_at_once(columns, rows)
        layout = torch.preserve_format if count == 1 else torch.contiguous_format
        slopes = Slopes._make(
            [
                *(
                    torch.zeros_like(x, dtype=precision(x.dtype), memory_format=layout)
                    for x in (query, key, value)
                ),
                *(x.new_zeros(x.shape) if biased else None for x in (columns, rows)),
            ]
        )
        for tensors in blocks(count, *slopes, *saved, gradient):
            part, block = Slopes._make(tensors[:5]), tensors[5:]
            differentiate_block(Strips(*block[:4]), part, *block[4:])
        inputs = (query, key, value, columns, rows)
        return tuple(None if s is None else s.to(x.dtype) for s, x in zip(slopes, inputs))


class Slopes(NamedTuple):
    """Gradients of the inputs, in which they are summed up; None for a bias that needs none."""

    query: Tensor
    key: Tensor
    value: Tensor
    columns: Tensor | None
    rows: Tensor | None


class Strips:
    """The scores of a block in powers of two, a strip of a few rows of cells at a time.

    PyTorch's exp is slow on a CPU, and 40 times slower where it all but vanishes; exp2 is not.

    Args:
        query: (M, N, D); the heads of all images of the block, here and below.
        key: (G, S, D).
        columns, rows: (M, N, W) and (M, N, H) biases.
    """

    def __init__(self, query: Tensor, key: Tensor, columns: Tensor, rows: Tensor):
        self.scale = query.shape[-1] ** -0.5
        # Heads that share keys are one product.
        self.query = (self.scale * query).reshape(len(key), -1, query.shape[-1])
        self.key, self.columns, self.rows = key, columns, rows
        limit = scores_at_once(query) // columns.numel()
        count = -(-rows.shape[-1] // max(1, limit))
        self.height = -(-rows.shape[-1] // count)  # of a strip; all are about as high

    def buffer(self) -> Tensor:
        """Room for the scores of a strip."""
        size = self.columns.numel() * self.height
        return self.query.new_empty(size, dtype=precision(self.query.dtype))

    def __iter__(self) -> Iterator[tuple[slice, slice, Tensor]]:
        """Rows, cells and (M, N, cells) scores of each strip, in memory that the next one uses."""
        buffer = self.buffer()
        height, width = self.rows.shape[-1], self.columns.shape[-1]
        for top in range(0, height, self.height):
            rows = slice(top, min(top + self.height, height))
            cells = slice(rows.start * width, rows.stop * width)
            shape = (*self.rows.shape[:2], rows.stop - rows.start, width)
            scores = buffer[: math.prod(shape)].view(shape)
            torch.add(self.columns[:, :, None], self.rows[..., rows, None], out=scores)
            product = (self.query, self.key[:, cells].mT, POWERS)
            add_product(self.grouped(scores), *product, POWERS)
            yield rows, cells, scores.flatten(2)

    def grouped(self, scores: Tensor) -> Tensor:
        """Scores of M heads as those of G sets of keys."""
        return scores.view(*self.query.shape[:2], -1)


def scores_at_once(x: Tensor) -> int:
    """How many scores to make before they are used."""
    return CPU_SCORES if x.is_cpu else GPU_SCORES


def images_at_once(columns: Tensor, rows: Tensor) -> int:
    """How many images have no more scores together than a strip; 1 where a single one has more."""
    scores_of_image = rows[0].numel() * columns.shape[-1]
    return max(1, min(len(rows), scores_at_once(rows) // max(1, scores_of_image)))


def blocks(count: int, *tensors: Tensor | None) -> Iterator[list[Any]]:
    """Each tensor's next `count` images, with their heads side by side in the first dimension."""
    chunks = [repeat(None) if x is None else x.split(count) for x in tensors]
    for block in zip(*chunks):
        yield [None if x is None else x.flatten(0, 1) for x in block]


def attend_block(strips: Strips, value: Tensor, out: Tensor, peak: Tensor, total: Tensor) -> None:
    """Attention of the images of one block.

    Args:
        strips: its scores.
        value: (M, S, E).
        out: (M, N, E), is filled.
        peak: (M, N, 1), is filled with the highest scores.
        total: (M, N, 1), is filled with the sums of exp2(score - peak).
    """
    peak.fill_(torch.finfo(peak.dtype).min)  # finite: with -inf, -inf would give no weight but NaN
    total.zero_()
    sums = torch.zeros_like(out, dtype=peak.dtype, memory_format=torch.contiguous_format)
    for _, cells, scores in strips:
        highest = torch.maximum(peak, scores.amax(-1, keepdim=True))
        weights = scores.sub_(highest).exp2_()
        shrink = peak.sub_(highest).exp2_()
        total.mul_(shrink).add_(weights.sum(-1, keepdim=True))
        add_product(sums.mul_(shrink), weights, value[:, cells])
        peak.copy_(highest)
    total.clamp_(min=1)  # which it is, the highest score has weight 1, unless there is no cell
    out.copy_(sums.div_(total))


def differentiate_block(
    strips: Strips,
    slopes: Slopes,
    value: Tensor,
    out: Tensor,
    total: Tensor,
    gradient: Tensor,
) -> None:
    """Gradients of the images of one block.

    Args:
        strips, value, out: as in `attend_block`.
        slopes: of the block, zeros; are filled.
        total: (M, N, 1), logarithm to base 2 of the sum of exp2(score).
        gradient: (M, N, E), of `out`.
    """
    # By which softmax shifts gradients.
    offset = -(gradient.to(total.dtype) * out).sum(-1, keepdim=True)
    query_slope = torch.zeros_like(strips.query, dtype=total.dtype)
    buffer = strips.buffer()
    for rows, cells, scores in strips:
        weights = scores.sub_(total).exp2_()
        add_product(slopes.value[:, cells], weights.mT, gradient)
        slope = buffer[: weights.numel()].view_as(weights).copy_(offset.expand_as(weights))
        add_product(slope, gradient, value[:, cells].mT)
        slope.mul_(weights)
        if slopes.columns is not None and slopes.rows is not None:
            grid = slope.unflatten(2, (-1, slopes.columns.shape[-1]))
            slopes.columns.add_(grid.sum(2))
            slopes.rows[..., rows] = grid.sum(3)
        grouped = strips.grouped(slope)
        add_product(query_slope, grouped, strips.key[:, cells], strips.scale)
        add_product(slopes.key[:, cells], grouped.mT, strips.query)
    slopes.query.copy_(query_slope.view_as(slopes.query))


def add_product(
    sums: Tensor, left: Tensor, right: Tensor, scale: float = 1.0, growth: float = 1.0
) -> None:
    """sums = growth * sums + scale * left @ right, the product in the precision of `right`."""
    if right.dtype == sums.dtype:
        torch.baddbmm(sums, left, right, beta=growth, alpha=scale, out=sums)
    else:
        sums.mul_(growth).add_(torch.bmm(left.to(right.dtype), right), alpha=scale)
