"""Multi-scale deformable sampling: weighted sums of bilinear samples of several feature levels.

Paper: section 4.3. Deformable DETR: https://arxiv.org/abs/2010.04159.

`sample_levels` has three kernels: `grid_sample` per level (the plain twin), embedding bags on a CPU
and Triton on a GPU (`deformable_triton.py`).

On a CPU the values of an image are a table with one row of D channels per token and head. The
result of a head of a query is a weighted sum of four rows per point, which is an embedding bag: one
fused, vectorised operator. The gradient of the values is an embedding bag too, over the samples
sorted by the row that they read.

Shapes: B images, N queries, S tokens of all levels together, M heads, L levels, P points of a level
        and head, D channels of a head, Q queries of a chunk.
Units:  locations are (x, y) fractions of a padded feature map.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..layers import eager_on_cpu, precision
from . import selected
from .roi_align_cpu import weighted_sums

Sizes = Sequence[tuple[int, int]]  # (height, width) of each level

CHUNK = 65_536  # samples of a chunk on a CPU, whose intermediate results stay in the cache
HAS_TRITON = find_spec("triton") is not None  # comes with torch for CUDA


def sample_levels(value: Tensor, sizes: Sizes, locations: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of bilinear samples, with zeros around the maps.

    Args:
        value: (B, S, M, D), level after level, row after row.
        sizes: (height, width) of each level.
        locations: (B, N, M, L, P, 2), in the dtype of the values or a more precise one.
        weights: (B, N, M, L, P), in the dtype of the locations.

    Returns:
        (B, N, M * D), in the dtype of the values.
    """
    name = selected("deformable", fastest(value.device))
    return BACKENDS[name](value, sizes, locations, weights)


def fastest(device: torch.device) -> str:
    """Name of the fastest kernel for a device; Triton's is not deterministic."""
    if eager_on_cpu(device):
        return "embedding_bag"
    deterministic = torch.are_deterministic_algorithms_enabled()
    return "triton" if device.type == "cuda" and HAS_TRITON and not deterministic else "grid"


def sample_by_grid(value: Tensor, sizes: Sizes, locations: Tensor, weights: Tensor) -> Tensor:
    """`sample_levels` by PyTorch's grid_sample, once for each level: the plain twin."""
    grids = (2 * locations - 1).transpose(1, 2).flatten(0, 1)  # (B * M, N, L, P, 2)
    weights = weights.transpose(1, 2).flatten(0, 1)[:, None]  # (B * M, 1, N, L, P)
    maps = value.to(weights).permute(0, 2, 3, 1).flatten(0, 1)  # (B * M, D, S)
    sums = []
    for size, features, grid, weight in zip(
        sizes,
        maps.split([height * width for height, width in sizes], dim=-1),
        grids.unbind(2),
        weights.unbind(3),
    ):
        samples = F.grid_sample(features.unflatten(-1, size), grid, align_corners=False)
        sums.append((samples * weight).sum(-1))  # (B * M, D, N)
    out = sum(sums[1:], sums[0]).unflatten(0, (value.shape[0], -1))
    return out.flatten(1, 2).transpose(1, 2).to(value.dtype)


def sample_by_bags(value: Tensor, sizes: Sizes, locations: Tensor, weights: Tensor) -> Tensor:
    """`sample_levels` by embedding bags, on a CPU."""
    exact = precision(weights.dtype)
    out = EmbeddingBagSampling.apply(value.to(exact), sizes, locations.to(exact), weights.to(exact))
    return out.to(value.dtype)


def sample_by_triton(value: Tensor, sizes: Sizes, locations: Tensor, weights: Tensor) -> Tensor:
    """`sample_levels` by Triton on a GPU, which needs a C compiler."""
    from .deformable_triton import TritonSampling  # Triton is optional

    exact = precision(weights.dtype)
    return TritonSampling.apply(
        value.contiguous(), sizes, locations.to(exact).contiguous(), weights.to(exact).contiguous()
    )


BACKENDS: dict[str, Callable[..., Tensor]] = {
    "embedding_bag": sample_by_bags,
    "triton": sample_by_triton,
    "grid": sample_by_grid,
}


class ShortSoftmax(torch.autograd.Function):
    """Softmax over a short axis; torch's own takes six times as long for 12 channels on a CPU."""

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
        of_x = gradient * y
        return of_x.addcmul_(y, of_x.sum(-1, keepdim=True), value=-1)


def softmax(x: Tensor) -> Tensor:
    """Softmax over the last dimension, which is short."""
    applied: Tensor = ShortSoftmax.apply(x) if eager_on_cpu(x.device) else x.softmax(-1)
    return applied


class Axis(NamedTuple):
    """Interpolation of samples along x or y, between a pair of neighbouring cells of the map."""

    low: Tensor  # (Q, M, L, P) index of the first cell of the pair
    offset: Tensor  # (Q, M, L, P) distance from its centre, in cells
    near: Tensor  # (Q, M, L, P) bilinear weight of the first cell
    far: Tensor  # (Q, M, L, P) bilinear weight of the second cell

    def derivative(self, near: Tensor, far: Tensor) -> Tensor:
        """Derivative of samples along the axis, from the values at the two cells."""
        segment = self.offset.floor()
        derivative = torch.where(segment == 0, far - near, 0.0)
        # Outside of the map, a sample is interpolated between a border cell and zero.
        derivative += torch.where(segment == -1, near, 0.0)
        return derivative.sub_(torch.where(segment == 1, far, 0.0))


class Samples(NamedTuple):
    """Bilinear samples of some queries of one image."""

    rows: Tensor  # (Q, M, 4, L, P) int32 rows of the table, one for each corner
    x: Axis
    y: Axis

    def corner_weights(self, weights: Tensor, out: Tensor) -> Tensor:
        """Bilinear times attention weights (Q, M, L, P) of the corners, into (4, Q, M, L, P)."""
        near, far = self.y.near * weights, self.y.far * weights
        torch.mul(near, self.x.near, out=out[0])
        torch.mul(near, self.x.far, out=out[1])
        torch.mul(far, self.x.near, out=out[2])
        torch.mul(far, self.x.far, out=out[3])
        return out


class Layout:
    """Positions of the cells of all levels and heads in the table of an image.

    Args:
        sizes: (height, width) of each level.
        weights: (B, N, M, L, P), of which shape, device and dtype are used.
    """

    def __init__(self, sizes: Sizes, weights: Tensor):
        heads, levels, points = weights.shape[2:]
        self.bounds = [0, *itertools.accumulate(height * width for height, width in sizes)]
        # Tokens from the first corner of a sample to each of the four. On a map of one row or
        # column the second cell does not exist: its weight is zero, and any row will do.
        self.steps = [
            [down * (height > 1) * width + right * (width > 1) for height, width in sizes]
            for down in (0, 1)
            for right in (0, 1)
        ]

        def per_point(rows: Sequence, like: Tensor) -> Tensor:
            """Values of the levels, repeated for the points: short axes are slow to broadcast."""
            return like.new_tensor(rows)[..., None].repeat_interleave(points, -1)

        integers = weights.new_empty((), dtype=torch.int32)
        self.heads = heads
        self.heights, self.widths = per_point(list(zip(*sizes)), weights)  # (L, P)
        # 1 where there is a second cell, else 0
        self.tall, self.wide = (self.heights - 1).clamp(max=1), (self.widths - 1).clamp(max=1)
        self.steps_rows = per_point(self.steps, integers) * heads  # (4, L, P)
        starts = per_point(self.bounds[:-1], integers) * heads  # (L, P)
        self.starts = starts + torch.arange(heads, out=integers.new_empty(heads))[:, None, None]

    def samples(self, locations: Tensor) -> Samples:
        """Samples at (Q, M, L, P, 2) locations."""
        x = self._axis(locations[..., 0], self.widths, self.wide)
        y = self._axis(locations[..., 1], self.heights, self.tall)
        cells = torch.addcmul(x.low, y.low, self.widths).to(torch.int32)  # of a level
        first = torch.add(self.starts, cells, alpha=self.heads)
        return Samples(first[:, :, None] + self.steps_rows, x, y)

    @staticmethod
    def _axis(locations: Tensor, lengths: Tensor, second: Tensor) -> Axis:
        offset = (locations * lengths).sub_(0.5)
        # fmin ignores NaN, which must not become a row index.
        low = torch.fmin(offset.floor(), lengths - 2).clamp_(min=0)
        offset -= low
        near = torch.rsub(offset.abs(), 1).relu_()
        far = torch.sub(second, (offset - 1).abs_()).relu_()
        return Axis(low, offset, near, far)


class EmbeddingBagSampling(torch.autograd.Function):
    """`sample_levels` in float32 or float64; the backward pass keeps only the inputs."""

    @staticmethod
    def forward(
        ctx: Any, value: Tensor, sizes: Sizes, locations: Tensor, weights: Tensor
    ) -> Tensor:
        """See `sample_levels`."""
        ctx.save_for_backward(value, locations, weights)
        ctx.sizes = sizes
        layout = Layout(sizes, weights)
        out = value.new_empty(*weights.shape[:3], value.shape[-1])
        for b, chunk in itertools.product(range(len(value)), chunks(weights)):
            samples = layout.samples(locations[b, chunk])
            corners = weights.new_empty(samples.rows.shape)
            samples.corner_weights(weights[b, chunk], corners.movedim(2, 0))
            rows, corners = (t.flatten(0, 1).flatten(1) for t in (samples.rows, corners))
            sums = weighted_sums(rows, value[b].flatten(0, 1), corners)
            out[b, chunk] = sums.unflatten(0, (-1, layout.heads))
        return out.flatten(2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of value, locations and weights."""
        value, locations, weights = ctx.saved_tensors
        layout = Layout(ctx.sizes, weights)
        gradient = gradient.reshape(*weights.shape[:3], -1)  # (B, N, M, D)
        of_value, of_locations, of_weights = (
            torch.empty_like(x, memory_format=torch.contiguous_format)
            for x in (value, locations, weights)
        )
        first = weights.new_empty(weights.shape[1:], dtype=torch.int32)
        corners = weights.new_empty(4, *weights.shape[1:])
        for b in range(len(value)):
            table, upstream = value[b].flatten(0, 1), gradient[b].flatten(0, 1)
            for chunk in chunks(weights):
                samples = layout.samples(locations[b, chunk])
                first[chunk] = samples.rows[:, :, 0]
                samples.corner_weights(weights[b, chunk], corners[:, chunk])
                products = corner_products(gradient[b, chunk].flatten(0, 1), table, samples.rows)
                outputs = of_locations[b, chunk], of_weights[b, chunk]
                sample_gradients(layout, samples, weights[b, chunk], products, *outputs)
            value_gradient(layout, first.flatten(), corners.flatten(1), upstream, of_value[b])
        return of_value, None, of_locations, of_weights


def chunks(weights: Tensor) -> list[slice]:
    """Slices of the queries, for (B, N, M, L, P) weights."""
    _, total, *shape = weights.shape
    queries = max(1, CHUNK // math.prod(shape))
    return [slice(start, start + queries) for start in range(0, total, queries)]


def corner_products(gradient: Tensor, table: Tensor, rows: Tensor) -> Tensor:
    """Inner products of the gradient of each head with the rows that it has read.

    Args:
        gradient, table: (Q * M, D) and (S * M, D).
        rows: (Q, M, 4, L, P), and so is the result.
    """
    each = rows[0, 0].numel()
    if len(table) < each:  # a sparse matrix must have more columns than entries in a row
        return (gradient @ table.t()).gather(1, rows.view(-1, each).long()).view(rows.shape)
    ends = torch.arange(0, rows.numel() + 1, each, dtype=rows.dtype)
    size = (len(gradient), len(table))
    with warnings.catch_warnings():  # sparse CSR tensors are in beta state
        warnings.simplefilter("ignore")
        pattern = torch.sparse_csr_tensor(
            ends, rows.flatten(), table.new_zeros(rows.numel()), size, check_invariants=False
        )
    return torch.sparse.sampled_addmm(pattern, gradient, table.t()).values().view(rows.shape)


def sample_gradients(
    layout: Layout,
    samples: Samples,
    weights: Tensor,
    products: Tensor,
    of_locations: Tensor,
    of_weights: Tensor,
) -> None:
    """Write the gradients of locations and weights of some queries into the last two arguments.

    Args:
        products: (Q, M, 4, L, P) from `corner_products`.
    """
    x, y = samples.x, samples.y
    upper_left, upper_right, lower_left, lower_right = products.unbind(2)
    left = y.near * upper_left + y.far * lower_left
    right = y.near * upper_right + y.far * lower_right
    upper = x.near * upper_left + x.far * upper_right
    lower = x.near * lower_left + x.far * lower_right
    torch.mul(x.near, left, out=of_weights).addcmul_(x.far, right)
    along_x = x.derivative(left, right * layout.wide)
    along_y = y.derivative(upper, lower * layout.tall)
    torch.mul(along_x, weights * layout.widths, out=of_locations[..., 0])
    torch.mul(along_y, weights * layout.heights, out=of_locations[..., 1])


def value_gradient(
    layout: Layout, first: Tensor, corners: Tensor, gradient: Tensor, out: Tensor
) -> None:
    """Write the gradient of an image's values into `out`, sorted by the first corners.

    Args:
        first: (N * M * L * P) row of the first corner of each sample.
        corners: (4, N * M * L * P) weights of the corners.
        gradient: (N * M, D).
        out: (S, M, D).
    """
    counts = torch.bincount(first, minlength=out[..., 0].numel())
    offsets = (counts.cumsum(0) - counts).to(torch.int32)
    _, order = first.sort(stable=True)
    queries = order.to(torch.int32) // (len(first) // len(gradient))
    out.zero_()
    for steps, weights in zip(layout.steps, corners):
        sums = weighted_sums(queries, gradient, weights.take(order), offsets).view_as(out)
        for start, end, step in zip(layout.bounds, layout.bounds[1:], steps):
            out[start + step : end] += sums[start : end - step]
