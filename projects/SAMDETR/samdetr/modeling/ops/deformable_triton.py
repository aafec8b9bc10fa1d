"""Multi-scale deformable sampling on a GPU, by Triton.

One kernel launch per level, forward and backward; a program computes a few rows of the result. The
gradient of the values is accumulated by atomic adds, so that it is not deterministic.

Shapes: B images, N queries, S tokens of all levels together, M heads, L levels, P points of a level
        and head, D channels of a head. A row is a head of a query of an image: B * N * M of them.
Units:  locations are (x, y) fractions of a padded feature map.
"""

# Functions have no annotations: to Triton they are types to compile for.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from .deformable import Sizes

ROWS = 16  # per program

# Compiled once for all image sizes.
kernel = triton.jit(
    do_not_specialize=["num_rows", "num_queries", "num_tokens", "start", "height", "width", "level"]
)


@triton.jit
def corner_mask(x, y, height, width):
    """True for cells inside of the map."""
    return (x >= 0) & (x < width) & (y >= 0) & (y < height)


@triton.jit
def sample_cells(locations, sample, height, width, mask):
    """The cell above and left of each sample, and the distance from its centre."""
    x = tl.load(locations + 2 * sample, mask, 0.0) * width - 0.5
    y = tl.load(locations + 2 * sample + 1, mask, 0.0) * height - 0.5
    # Clamp so that far samples do not overflow; at these limits they are still outside.
    x = tl.minimum(tl.maximum(x, -2.0), width + 1.0)
    y = tl.minimum(tl.maximum(y, -2.0), height + 1.0)
    left, top = tl.floor(x), tl.floor(y)
    return left.to(tl.int32), top.to(tl.int32), x - left, y - top


@kernel
def forward_kernel(
    value, locations, weights, out,
    num_rows, num_queries, num_tokens, start, height, width, level, num_levels, heads, points,
    dim: tl.constexpr, block: tl.constexpr, rows: tl.constexpr,
):  # fmt: skip
    """Add the samples of a level to `rows` rows of the result."""
    row = tl.program_id(0).to(tl.int64) * rows + tl.arange(0, rows)
    channel = tl.arange(0, block)[None, :]
    mask = row < num_rows
    first = (row // heads // num_queries * num_tokens + start) * heads + row % heads
    index = row[:, None] * dim + channel
    inside = mask[:, None] & (channel < dim)
    total = tl.load(out + index, inside, 0.0)
    for point in range(points):
        sample = (row * num_levels + level) * points + point
        weight = tl.load(weights + sample, mask, 0.0)
        left, top, dx, dy = sample_cells(locations, sample, height, width, mask)
        for i in tl.static_range(4):
            x, y = left + i % 2, top + i // 2
            corner = (dx if i % 2 else 1 - dx) * (dy if i // 2 else 1 - dy)
            valid = mask & corner_mask(x, y, height, width)
            cell = (first + (y * width + x).to(tl.int64) * heads) * dim
            readable = valid[:, None] & (channel < dim)
            read = tl.load(value + cell[:, None] + channel, readable, 0.0).to(total.dtype)
            total += (weight * corner)[:, None] * read
    tl.store(out + index, total, inside)


@kernel
def backward_kernel(
    value, locations, weights, gradient, of_value, of_locations, of_weights,
    num_rows, num_queries, num_tokens, start, height, width, level, num_levels, heads, points,
    dim: tl.constexpr, block: tl.constexpr, rows: tl.constexpr,
):  # fmt: skip
    """Gradients through the samples of a level, for `rows` rows of the result."""
    row = tl.program_id(0).to(tl.int64) * rows + tl.arange(0, rows)
    channel = tl.arange(0, block)[None, :]
    mask = row < num_rows
    first = (row // heads // num_queries * num_tokens + start) * heads + row % heads
    inside = mask[:, None] & (channel < dim)
    upstream = tl.load(gradient + row[:, None] * dim + channel, inside, 0.0)
    for point in range(points):
        sample = (row * num_levels + level) * points + point
        weight = tl.load(weights + sample, mask, 0.0)
        left, top, dx, dy = sample_cells(locations, sample, height, width, mask)
        grad_x = tl.zeros_like(dx)
        grad_y = tl.zeros_like(dx)
        of_weight = tl.zeros_like(dx)
        for i in tl.static_range(4):
            x, y = left + i % 2, top + i // 2
            weight_x = dx if i % 2 else 1 - dx
            weight_y = dy if i // 2 else 1 - dy
            valid = mask & corner_mask(x, y, height, width)
            cell = (first + (y * width + x).to(tl.int64) * heads) * dim
            readable = valid[:, None] & (channel < dim)
            read = tl.load(value + cell[:, None] + channel, readable, 0.0).to(upstream.dtype)
            product = tl.sum(read * upstream, 1)
            grad_x += (weight_y if i % 2 else -weight_y) * product
            grad_y += (weight_x if i // 2 else -weight_x) * product
            of_weight += weight_x * weight_y * product
            change = (weight * weight_x * weight_y)[:, None] * upstream
            tl.atomic_add(of_value + cell[:, None] + channel, change, readable)
        tl.store(of_locations + 2 * sample, grad_x * weight * width, mask)
        tl.store(of_locations + 2 * sample + 1, grad_y * weight * height, mask)
        tl.store(of_weights + sample, of_weight, mask)


class TritonSampling(torch.autograd.Function):
    """`sample_levels` by Triton, accumulated in the dtype of the locations."""

    @staticmethod
    def forward(
        ctx: Any, value: Tensor, sizes: Sizes, locations: Tensor, weights: Tensor
    ) -> Tensor:
        """See `sample_levels`; all tensors are contiguous."""
        ctx.save_for_backward(value, locations, weights)
        ctx.sizes = sizes
        out = weights.new_zeros(*weights.shape[:3], value.shape[-1])
        launch(forward_kernel, sizes, value, locations, weights, out)
        return out.flatten(2).to(value.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of value, locations and weights."""
        value, locations, weights = ctx.saved_tensors
        of_value = torch.zeros_like(value, dtype=weights.dtype)
        of_locations, of_weights = torch.empty_like(locations), torch.empty_like(weights)
        gradient = gradient.to(weights.dtype).contiguous()
        tensors = value, locations, weights, gradient, of_value, of_locations, of_weights
        launch(backward_kernel, ctx.sizes, *tensors)
        return of_value.to(value.dtype), None, of_locations, of_weights


def launch(function: Any, sizes: Sizes, *tensors: Tensor) -> None:
    """Launch a kernel for each level; the first tensors are value, locations and weights."""
    value, _, weights = tensors[:3]
    _, num_tokens, heads, dim = value.shape
    num_queries, points = weights.shape[1], weights.shape[-1]
    num_rows = weights[..., 0, 0].numel()
    if num_rows == 0:
        return
    grid = (triton.cdiv(num_rows, ROWS),)
    block = triton.next_power_of_2(dim)
    start = 0
    with torch.cuda.device_of(value):
        for level, (height, width) in enumerate(sizes):
            shape = num_rows, num_queries, num_tokens, start, height, width, level, len(sizes)
            function[grid](*tensors, *shape, heads, points, dim=dim, block=block, rows=ROWS)
            start += height * width
