"""Bilinear sampling of feature levels on a GPU, by Triton.

One kernel for each level, forward and backward; the gradient of the values is added up atomically,
so that its last digits depend on the order in which that happens.

Shapes: B images, N queries, S tokens of all levels together, M heads, L levels, P points of a level
        and head, D channels of a head. A row is a head of a query of an image: B * N * M of them.
Units:  locations are (x, y) fractions of a padded feature map.
"""

# To Triton an annotation is a type to compile for, so that its functions have none.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..layers import precision

ROWS = 16  # of a program

# Compiled once for all sizes of images.
kernel = triton.jit(
    do_not_specialize=["num_rows", "num_queries", "num_tokens", "start", "height", "width", "level"]
)


@triton.jit
def corner_mask(x, y, height, width):
    """If cells are of the map."""
    return (x >= 0) & (x < width) & (y >= 0) & (y < height)


@triton.jit
def sample_places(locations, sample, height, width, mask):
    """The cell above and left of samples, and how far from its centre they are."""
    x = tl.load(locations + 2 * sample, mask, 0.0) * width - 0.5
    y = tl.load(locations + 2 * sample + 1, mask, 0.0) * height - 0.5
    # What is far outside must not overflow; at these limits it is still outside.
    x = tl.minimum(tl.maximum(x, -2.0), width + 1.0)
    y = tl.minimum(tl.maximum(y, -2.0), height + 1.0)
    left, top = tl.floor(x), tl.floor(y)
    return left.to(tl.int32), top.to(tl.int32), x - left, y - top


@kernel
def forward_kernel(
    value,
    locations,
    weights,
    out,
    num_rows,
    num_queries,
    num_tokens,
    start,
    height,
    width,
    level,
    num_levels,
    heads,
    points,
    dim: tl.constexpr,
    block: tl.constexpr,
    rows: tl.constexpr,
):
    """Add the samples of a level to (rows, D) of the result."""
    row = tl.program_id(0).to(tl.int64) * rows + tl.arange(0, rows)
    channel = tl.arange(0, block)[None, :]
    mask = row < num_rows
    first = (row // heads // num_queries * num_tokens + start) * heads + row % heads
    place = row[:, None] * dim + channel
    inside = mask[:, None] & (channel < dim)
    total = tl.load(out + place, inside, 0.0)
    for point in range(points):
        sample = (row * num_levels + level) * points + point
        weight = tl.load(weights + sample, mask, 0.0)
        left, top, dx, dy = sample_places(locations, sample, height, width, mask)
        for i in tl.static_range(4):
            x, y = left + i % 2, top + i // 2
            share = (dx if i % 2 else 1 - dx) * (dy if i // 2 else 1 - dy)
            valid = mask & corner_mask(x, y, height, width)
            cell = (first + (y * width + x).to(tl.int64) * heads) * dim
            known = valid[:, None] & (channel < dim)
            read = tl.load(value + cell[:, None] + channel, known, 0.0).to(total.dtype)
            total += (weight * share)[:, None] * read
    tl.store(out + place, total, inside)


@kernel
def backward_kernel(
    value,
    locations,
    weights,
    gradient,
    of_value,
    of_locations,
    of_weights,
    num_rows,
    num_queries,
    num_tokens,
    start,
    height,
    width,
    level,
    num_levels,
    heads,
    points,
    dim: tl.constexpr,
    block: tl.constexpr,
    rows: tl.constexpr,
):
    """Gradients by the samples of a level, for (rows, D) of the result."""
    row = tl.program_id(0).to(tl.int64) * rows + tl.arange(0, rows)
    channel = tl.arange(0, block)[None, :]
    mask = row < num_rows
    first = (row // heads // num_queries * num_tokens + start) * heads + row % heads
    inside = mask[:, None] & (channel < dim)
    wanted = tl.load(gradient + row[:, None] * dim + channel, inside, 0.0)
    for point in range(points):
        sample = (row * num_levels + level) * points + point
        weight = tl.load(weights + sample, mask, 0.0)
        left, top, dx, dy = sample_places(locations, sample, height, width, mask)
        along_x = tl.zeros_like(dx)
        along_y = tl.zeros_like(dx)
        of_weight = tl.zeros_like(dx)
        for i in tl.static_range(4):
            x, y = left + i % 2, top + i // 2
            share_x = dx if i % 2 else 1 - dx
            share_y = dy if i // 2 else 1 - dy
            valid = mask & corner_mask(x, y, height, width)
            cell = (first + (y * width + x).to(tl.int64) * heads) * dim
            known = valid[:, None] & (channel < dim)
            read = tl.load(value + cell[:, None] + channel, known, 0.0).to(wanted.dtype)
            product = tl.sum(read * wanted, 1)
            along_x += (share_y if i % 2 else -share_y) * product
            along_y += (share_x if i // 2 else -share_x) * product
            of_weight += share_x * share_y * product
            change = (weight * share_x * share_y)[:, None] * wanted
            tl.atomic_add(of_value + cell[:, None] + channel, change, known)
        tl.store(of_locations + 2 * sample, along_x * weight * width, mask)
        tl.store(of_locations + 2 * sample + 1, along_y * weight * height, mask)
        tl.store(of_weights + sample, of_weight, mask)


class TritonSampling(torch.autograd.Function):
    """`sample_levels` by Triton, with sums in the precision of the locations."""

    @staticmethod
    def forward(
        ctx: Any,
        value: Tensor,
        sizes: Sequence[tuple[int, int]],
        locations: Tensor,
        weights: Tensor,
    ) -> Tensor:
        """As `sample_levels`, of contiguous tensors."""
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
        launch(
            backward_kernel,
            ctx.sizes,
            value,
            locations,
            weights,
            gradient,
            of_value,
            of_locations,
            of_weights,
        )
        return of_value.to(value.dtype), None, of_locations, of_weights


def launch(
    function: Any,
    sizes: Sequence[tuple[int, int]],
    value: Tensor,
    locations: Tensor,
    weights: Tensor,
    *others: Tensor,
) -> None:
    """Run a kernel for each level."""
    num_rows, dim = weights[..., 0, 0].numel(), value.shape[-1]
    if num_rows == 0:
        return
    grid = (triton.cdiv(num_rows, ROWS),)
    start = 0
    with torch.cuda.device_of(value):
        for level, (height, width) in enumerate(sizes):
            function[grid](
                value,
                locations,
                weights,
                *others,
                num_rows=num_rows,
                num_queries=weights.shape[1],
                num_tokens=value.shape[1],
                start=start,
                height=height,
                width=width,
                level=level,
                num_levels=len(sizes),
                heads=value.shape[2],
                points=weights.shape[-1],
                dim=dim,
                block=triton.next_power_of_2(dim),
                rows=ROWS,
            )
            start += height * width


def sample_triton(
    value: Tensor, sizes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """`sample_levels` by Triton; other tensors than a GPU's need its interpreter."""
    exact = precision(weights.dtype)
    return TritonSampling.apply(
        value.contiguous(), sizes, locations.to(exact).contiguous(), weights.to(exact).contiguous()
    )
