"""Bilinear sampling of feature levels on a CPU, as sums of the rows of a table.

The values of an image are a table of rows of D numbers, and what a head of a query reads is a
weighted sum of four rows for each point: an embedding bag, whose kernel is fused and vectorised.
The gradient of the values is one as well, over samples sorted by where they read.

Shapes: B images, N queries, S tokens of all levels together, M heads, L levels, P points of a level
        and head, D channels of a head, Q queries of a chunk.
Units:  locations are (x, y) fractions of a padded feature map.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK = 65_536  # samples: what is computed of them on the way stays in the cache


class Axis(NamedTuple):
    """Where samples lie along x or y: between two cells, or next to them outside of the map."""

    low: Tensor  # (Q, M, L, P) number of the first cell
    offset: Tensor  # (Q, M, L, P) cells from its centre
    near: Tensor  # (Q, M, L, P) share of the first cell
    far: Tensor  # (Q, M, L, P) share of the second cell

    def slope(self, near: Tensor, far: Tensor) -> Tensor:
        """The derivative of samples along the axis, by what the two cells would give alone."""
        segment = self.offset.floor()
        slope = torch.where(segment == 0, far - near, 0.0)
        # In front of the first cell of a map and behind its last one there is no other.
        slope += torch.where(segment == -1, near, 0.0)
        return slope.sub_(torch.where(segment == 1, far, 0.0))


class Samples(NamedTuple):
    """Samples of some queries of one image."""

    rows: Tensor  # (Q, M, 4, L, P) int32, the four that each sample is made of
    x: Axis
    y: Axis

    def share(self, weights: Tensor, out: Tensor) -> Tensor:
        """Shares of the rows, into (4, Q, M, L, P), for (Q, M, L, P) weights of the samples."""
        near, far = self.y.near * weights, self.y.far * weights
        torch.mul(near, self.x.near, out=out[0])
        torch.mul(near, self.x.far, out=out[1])
        torch.mul(far, self.x.near, out=out[2])
        torch.mul(far, self.x.far, out=out[3])
        return out


class Layout:
    """Where the cells of all levels and heads are in the table of an image.

    Args:
        sizes: (height, width) of each level.
        weights: (B, N, M, L, P), whose shape, device and precision count.
    """

    def __init__(self, sizes: Sequence[tuple[int, int]], weights: Tensor):
        heads, levels, points = weights.shape[2:]
        self.bounds = [0, *itertools.accumulate(height * width for height, width in sizes)]
        # Tokens from the first cell of a sample to each of the four. One that a map of one row or
        # column does not have gets no share, and any row does.
        self.steps = [
            [down * (height > 1) * width + right * (width > 1) for height, width in sizes]
            for down in (0, 1)
            for right in (0, 1)
        ]

        def numbers(rows: Sequence, like: Tensor) -> Tensor:
            """For each level, repeated for its points: short axes are slow to expand."""
            return like.new_tensor(rows)[..., None].repeat_interleave(points, -1)

        integers = weights.new_empty((), dtype=torch.int32)
        self.heads = heads
        self.heights, self.widths = numbers(list(zip(*sizes)), weights)  # (L, P)
        # 1 where there is a second cell, else 0
        self.tall, self.wide = (self.heights - 1).clamp(max=1), (self.widths - 1).clamp(max=1)
        self.steps_rows = numbers(self.steps, integers) * heads  # (4, L, P)
        starts = numbers(self.bounds[:-1], integers) * heads  # (L, P)
        self.starts = starts + torch.arange(heads, out=integers.new_empty(heads))[:, None, None]

    def samples(self, locations: Tensor) -> Samples:
        """Those at (Q, M, L, P, 2) locations."""
        x = self._axis(locations[..., 0], self.widths, self.wide)
        y = self._axis(locations[..., 1], self.heights, self.tall)
        cells = torch.addcmul(x.low, y.low, self.widths).to(torch.int32)  # of a level
        first = torch.add(self.starts, cells, alpha=self.heads)
        return Samples(first[:, :, None] + self.steps_rows, x, y)

    @staticmethod
    def _axis(places: Tensor, lengths: Tensor, second: Tensor) -> Axis:
        offset = (places * lengths).sub_(0.5)
        # fmin, for what is not a number must not become a row either.
        low = torch.fmin(offset.floor(), lengths - 2).clamp_(min=0)
        offset -= low
        near = torch.rsub(offset.abs(), 1).relu_()
        far = torch.sub(second, (offset - 1).abs_()).relu_()
        return Axis(low, offset, near, far)


class BagSampling(torch.autograd.Function):
    """`sample_levels` in float32 or float64 on a CPU.

    Nothing but the inputs is kept for the gradients.
    """

    @staticmethod
    def forward(
        ctx: Any,
        value: Tensor,
        sizes: Sequence[tuple[int, int]],
        locations: Tensor,
        weights: Tensor,
    ) -> Tensor:
        """As `sample_levels`."""
        ctx.save_for_backward(value, locations, weights)
        ctx.sizes = sizes
        layout = Layout(sizes, weights)
        out = value.new_empty(*weights.shape[:3], value.shape[-1])
        for b, chunk in itertools.product(range(len(value)), chunks(weights)):
            samples = layout.samples(locations[b, chunk])
            shares = weights.new_empty(samples.rows.shape)
            samples.share(weights[b, chunk], shares.movedim(2, 0))
            sums = bags(value[b].flatten(0, 1), samples.rows.flatten(0, 1), shares.flatten(0, 1))
            out[b, chunk] = sums.unflatten(0, (-1, layout.heads))
        return out.flatten(2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of value, locations and weights."""
        value, locations, weights = ctx.saved_tensors
        layout = Layout(ctx.sizes, weights)
        gradient = gradient.reshape(*weights.shape[:3], -1)  # (B, N, M, D)
        results = [
            torch.empty_like(x, memory_format=torch.contiguous_format)
            for x in (value, locations, weights)
        ]
        for tensors in zip(value, locations, weights, gradient, *results):
            image_gradients(layout, *tensors)
        return results[0], None, results[1], results[2]


def chunks(weights: Tensor) -> list[slice]:
    """Parts of the queries of an image, for (B, N, M, L, P) or (N, M, L, P) weights."""
    total, *shape = weights.shape[-4:]
    queries = max(1, CHUNK // math.prod(shape))
    return [slice(start, start + queries) for start in range(0, total, queries)]


def bags(table: Tensor, rows: Tensor, shares: Tensor, starts: Tensor | None = None) -> Tensor:
    """Weighted sums of rows of a (R, D) table.

    Args:
        rows, shares: (bags, ...), or all bags one after the other if there are starts.
        starts: (bags) where each bag starts.
    """
    if starts is None:
        rows, shares = rows.flatten(1), shares.flatten(1)
    return F.embedding_bag(rows, table, starts, mode="sum", per_sample_weights=shares)


def image_gradients(
    layout: Layout,
    value: Tensor,
    locations: Tensor,
    weights: Tensor,
    gradient: Tensor,
    of_value: Tensor,
    of_locations: Tensor,
    of_weights: Tensor,
) -> None:
    """Gradients of one image by (N, M, D) that of its output, into the last three arguments."""
    first = weights.new_empty(weights.shape, dtype=torch.int32)
    shares = weights.new_empty(4, *weights.shape)
    for chunk in chunks(weights):
        samples = layout.samples(locations[chunk])
        first[chunk] = samples.rows[:, :, 0]
        samples.share(weights[chunk], shares[:, chunk])
        parts = products(gradient[chunk].flatten(0, 1), value.flatten(0, 1), samples.rows)
        sample_gradients(
            layout, samples, weights[chunk], parts, of_locations[chunk], of_weights[chunk]
        )
    scatter(layout, first.flatten(), shares.flatten(1), gradient.flatten(0, 1), of_value)


def products(gradient: Tensor, table: Tensor, rows: Tensor) -> Tensor:
    """Those of a head's gradient with each of the rows that it has read, (Q, M, 4, L, P).

    Args:
        gradient: (Q * M, D).
        table: (R, D).
        rows: (Q, M, 4, L, P).
    """
    each = rows[0, 0].numel()
    if len(table) < each:  # a sparse matrix must have more columns than entries in a row
        return (gradient @ table.t()).gather(1, rows.view(-1, each).long()).view(rows.shape)
    ends = torch.arange(0, rows.numel() + 1, each, dtype=rows.dtype)
    size = (len(gradient), len(table))
    with warnings.catch_warnings():  # that sparse tensors are in beta state
        warnings.simplefilter("ignore")
        pattern = torch.sparse_csr_tensor(
            ends, rows.flatten(), table.new_zeros(rows.numel()), size, check_invariants=False
        )
    return torch.sparse.sampled_addmm(pattern, gradient, table.t()).values().view(rows.shape)


def sample_gradients(
    layout: Layout,
    samples: Samples,
    weights: Tensor,
    parts: Tensor,
    of_locations: Tensor,
    of_weights: Tensor,
) -> None:
    """Gradients of locations and weights of some queries, into the last two arguments.

    Args:
        parts: (Q, M, 4, L, P) what each row would have given.
    """
    x, y = samples.x, samples.y
    upper_left, upper_right, lower_left, lower_right = parts.unbind(2)
    left = y.near * upper_left + y.far * lower_left
    right = y.near * upper_right + y.far * lower_right
    upper = x.near * upper_left + x.far * upper_right
    lower = x.near * lower_left + x.far * lower_right
    torch.mul(x.near, left, out=of_weights).addcmul_(x.far, right)
    torch.mul(x.slope(left, right * layout.wide), weights * layout.widths, out=of_locations[..., 0])
    torch.mul(
        y.slope(upper, lower * layout.tall), weights * layout.heights, out=of_locations[..., 1]
    )


def scatter(layout: Layout, first: Tensor, shares: Tensor, gradient: Tensor, out: Tensor) -> None:
    """The gradient of an image's values, into `out`.

    A sample reads four rows, but it is enough to sort by the first of them.

    Args:
        first: (N * M * L * P) the first row of each sample.
        shares: (4, N * M * L * P).
        gradient: (N * M, D).
        out: (S, M, D).
    """
    counts = torch.bincount(first, minlength=out[..., 0].numel())
    starts = (counts.cumsum(0) - counts).to(torch.int32)
    _, order = first.sort(stable=True)
    queries = order.to(torch.int32) // (len(first) // len(gradient))
    out.zero_()
    for steps, share in zip(layout.steps, shares):
        sums = bags(gradient, queries, share.take(order), starts).view_as(out)
        for start, end, step in zip(layout.bounds, layout.bounds[1:], steps):
            out[start + step : end] += sums[start : end - step]
