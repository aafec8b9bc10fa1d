"""RoIAlign on a CPU, as weighted sums over lists of cells.

The weight of a cell in a bin is the product of one weight for its row and one for its column, and
is zero outside of a small rectangle. The indices of the cells of all rectangles are concatenated,
and `embedding_bag` computes the weighted sums in one fused operator. The gradient of the features
is the same operator on the inverted lists (the sums that each cell belongs to). Nothing is
scattered, the result is deterministic, and no list is kept for the backward pass.

The length of the lists depends on the boxes, for which a GPU would have to be synchronized.

Shapes: B images, N boxes per image, M points per box, R x R bins per box, P sums, S = B * H * W
        cells of all images, C channels, E entries: the cells of all sums together.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


class CellLists(NamedTuple):
    """Cells of P rectangles of a map, rectangle by rectangle and row by row."""

    cells: Tensor  # (E,) int32 index among the cells of all images
    counts: Tensor  # (P,) int32 number of cells of each rectangle
    column_index: Tensor  # (E,) int32 index of each cell's weight among the flat column weights
    row_index: Tensor  # (lines,) int32 index of each line's weight among the flat row weights
    lines: Tensor  # (E,) int32 line of each cell; a line is a row of a rectangle

    @classmethod
    def of_support(cls, rows: Tensor, columns: Tensor) -> CellLists:
        """The smallest rectangles that contain all nonzero weights.

        Args:
            rows: (B, ..., H) weights.
            columns: (B, ..., W) weights. Without the last dimension both broadcast to (B, ...),
                whose elements are the P sums.
        """
        shape = torch.broadcast_shapes(rows.shape[:-1], columns.shape[:-1])
        top, heights, row_weights = support(rows, shape)
        left, widths, column_weights = support(columns, shape)
        image = int32_range(top, shape[0]).repeat_interleave(len(top) // shape[0])
        corner = (image * rows.shape[-1] + top) * columns.shape[-1] + left

        rectangle = torch.repeat_interleave(heights)  # of each line
        line = int32_range(rectangle) - take(offsets(heights), rectangle)  # from its top
        width = take(widths, rectangle)
        start = offsets(width)
        first_cell = take(corner, rectangle) + line * columns.shape[-1] - start
        first_weight = take(column_weights, rectangle) - start

        lines = torch.repeat_interleave(width)  # of each cell
        entry = int32_range(lines)
        return cls(
            take(first_cell, lines).add_(entry),
            heights * widths,
            take(first_weight, lines).add_(entry),
            take(row_weights, rectangle) + line,
            lines,
        )

    def weights(self, rows: Tensor, columns: Tensor) -> Tensor:
        """(E,) products of row and column weights of the shapes given to `of_support`."""
        row = take(rows.flatten(), self.row_index)
        return take(columns.flatten(), self.column_index).mul_(take(row, self.lines))

    def sums(self, features: Tensor, weights: Tensor) -> Tensor:
        """(P, C) sums of (S, C) features with (E,) weights."""
        return weighted_sums(self.cells, features, weights, offsets(self.counts))

    def transposed_sums(self, gradient: Tensor, weights: Tensor, cells: int) -> Tensor:
        """(S, C) gradient of the features by the (P, C) gradient of the sums; S is `cells`."""
        order = self.cells.sort(stable=True)
        starts = torch.searchsorted(order.values, int32_range(gradient, cells))
        index = take(torch.repeat_interleave(self.counts), order.indices)
        return weighted_sums(index, gradient, take(weights, order.indices), starts.int())


class BinSums(torch.autograd.Function):
    """Weighted sums of the features in all bins; the weights are constants."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Sum (B, H * W, C) features into (B, N, R, R, C) bins.

        Args:
            rows: (B, N, R, H) weights of the map's rows in each row of bins.
            columns: (B, N, R, W) weights of the map's columns in each column of bins.
        """
        ctx.save_for_backward(rows, columns)
        ctx.shape = features.shape
        grid = rows[:, :, :, None], columns[:, :, None]
        lists = CellLists.of_support(*grid)
        bins = lists.sums(features.flatten(0, 1), lists.weights(*grid))
        return bins.view(*rows.shape[:3], columns.shape[2], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradient of the features."""
        rows, columns = ctx.saved_tensors
        grid = rows[:, :, :, None], columns[:, :, None]
        lists, (batch, cells, _) = CellLists.of_support(*grid), ctx.shape
        weights = lists.weights(*grid)
        of_features = lists.transposed_sums(gradient.flatten(0, -2), weights, batch * cells)
        return of_features.view(ctx.shape), None, None


class PointSums(torch.autograd.Function):
    """Bilinear samples of the bins at some points, without the bins."""

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, points: Tensor, rows: Tensor, columns: Tensor
    ) -> Tensor:
        """Sample the bins at (B, N, M, 2) points, with zeros around them; returns (B, N, M, C).

        Points are in bins: 0 is the centre of the first bin. See `BinSums` for the others.
        """
        ctx.save_for_backward(features, points, rows, columns)
        x, y = (bilinear_weights(p, rows.shape[2]) for p in points.unbind(-1))
        mixed = y @ rows, x @ columns
        lists = CellLists.of_support(*mixed)
        samples = lists.sums(features.flatten(0, 1), lists.weights(*mixed))
        return samples.view(*points.shape[:3], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of features and points."""
        features, points, rows, columns = ctx.saved_tensors
        size = rows.shape[2]
        flat, gradient = features.flatten(0, 1), gradient.flatten(0, 2)
        x, y = (bilinear_weights(p, size) for p in points.unbind(-1))
        dx, dy = (bilinear_derivatives(p, size) for p in points.unbind(-1))
        # At the centre of a bin the derivative needs a neighbour whose own weight is zero.
        lists = CellLists.of_support(dy.abs() @ rows, dx.abs() @ columns)
        weights = lists.weights(y @ rows, x @ columns)
        of_features = lists.transposed_sums(gradient, weights, len(flat))
        of_points = [
            (gradient * lists.sums(flat, lists.weights(a @ rows, b @ columns))).sum(-1)
            for a, b in ((y, dx), (dy, x))
        ]
        return (
            of_features.view_as(features),
            torch.stack(of_points, dim=-1).view_as(points),
            None,
            None,
        )


def bilinear_weights(position: Tensor, size: int) -> Tensor:
    """Bilinear weights (..., size) of `size` bins at (...) positions among them, in bins.

    Differentiable; the derivative at the centre of a bin is that to its right, as in grid_sample.
    """
    position = position[..., None]
    left = position.detach().floor()
    right = left + 1
    bins = torch.arange(size, device=position.device, dtype=position.dtype)
    return (bins == left) * (1 - (position - left)) + (bins == right) * (1 - (right - position))


def bilinear_derivatives(position: Tensor, size: int) -> Tensor:
    """Derivatives of `bilinear_weights` with respect to the position, (..., size)."""
    left = position[..., None].floor()
    bins = torch.arange(size, device=position.device, dtype=position.dtype)
    return (bins == left + 1).to(position.dtype) - (bins == left).to(position.dtype)


def weighted_sums(
    index: Tensor, table: Tensor, weights: Tensor, starts: Tensor | None = None
) -> Tensor:
    """Weighted sums of table rows; index and weights are (sums, rows), or flat with starts."""
    return F.embedding_bag(index, table, starts, mode="sum", per_sample_weights=weights)


def take(values: Tensor, index: Tensor) -> Tensor:
    """Return `values[index]`; on a CPU, indexing takes four times as long."""
    return values.index_select(0, index)


def support(weights: Tensor, shape: torch.Size) -> tuple[Tensor, Tensor, Tensor]:
    """First nonzero of the (..., cells) weights expanded to `shape`, number of cells up to the last
    nonzero, and index of the first among the flat weights; (P,) each.
    """
    used = weights != 0
    first = used.byte().argmax(-1)
    end = used.shape[-1] - used.flip(-1).byte().argmax(-1)
    count = (end - first) * used.any(-1)
    index = int32_range(first.flatten()).view_as(first) * weights.shape[-1] + first
    first, count, index = (x.int().expand(shape) for x in (first, count, index))
    return first.flatten(), count.flatten(), index.flatten()


def offsets(counts: Tensor) -> Tensor:
    """Start of each of several consecutive groups of the given sizes."""
    return counts.cumsum(0, dtype=counts.dtype) - counts


def int32_range(like: Tensor, count: int | None = None) -> Tensor:
    """Return 0, 1, ..., count - 1 on the device of a tensor; `count` defaults to its length."""
    count = len(like) if count is None else count
    return torch.arange(count, dtype=torch.int32, device=like.device)
