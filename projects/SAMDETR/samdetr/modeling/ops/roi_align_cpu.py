"""Weighted sums over windows of a feature map, as lists of cells.

The weight of a cell in a bin of RoIAlign is the product of one for its row and one for its column,
and is zero outside of a small window. So the cells of all windows are written down one after the
other, and PyTorch's `embedding_bag` adds them up without anything in between. Backward is the same
operation on the lists of windows of each cell: nothing is scattered, the result is deterministic,
and no list is kept.

Lists have as many entries as the boxes happen to need, which is known at once on a CPU and would
have to be waited for on a GPU.

Shapes: P sums, S = B * H * W cells of all images, C channels.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


class Windows(NamedTuple):
    """The cells of P windows, window by window and line by line."""

    cells: Tensor  # (entries,) int32, of all images
    counts: Tensor  # (P,) int32 cells of each window
    column_weights: Tensor  # (entries,) int32, where each finds its weight in flat ones of columns
    row_weights: Tensor  # (lines,) int32, the same for the rows, which are the lines of windows
    lines: Tensor  # (entries,) int32 line of each cell

    @classmethod
    def around(cls, rows: Tensor, columns: Tensor) -> Windows:
        """The smallest windows around weights that are not zero.

        Args:
            rows: (B, ..., H) weights.
            columns: (B, ..., W) weights; without the last dimension both broadcast to B, ..., and
                that is P sums, flattened.
        """
        shape = torch.broadcast_shapes(rows.shape[:-1], columns.shape[:-1])
        top, heights, row_weights = spans(rows, shape)
        left, widths, column_weights = spans(columns, shape)
        image = indices(top, shape[0]).repeat_interleave(len(top) // shape[0])
        corner = (image * rows.shape[-1] + top) * columns.shape[-1] + left

        window = torch.repeat_interleave(heights)  # of each line
        line = indices(window) - pick(starts(heights), window)  # from the top of its window
        width = pick(widths, window)
        start = starts(width)
        first_cell = pick(corner, window) + line * columns.shape[-1] - start
        first_weight = pick(column_weights, window) - start

        lines = torch.repeat_interleave(width)  # of each cell
        number = indices(lines)
        return cls(
            pick(first_cell, lines).add_(number),
            heights * widths,
            pick(first_weight, lines).add_(number),
            pick(row_weights, window) + line,
            lines,
        )

    def weights(self, rows: Tensor, columns: Tensor) -> Tensor:
        """(entries,) weights, of rows and columns of the shapes that the windows are from."""
        row = pick(rows.flatten(), self.row_weights)
        return pick(columns.flatten(), self.column_weights).mul_(pick(row, self.lines))

    def sums(self, features: Tensor, weights: Tensor) -> Tensor:
        """(P, C) sums of the (S, C) features of the cells, with the (entries,) weights."""
        return sums(self.cells, starts(self.counts), features, weights)

    def transposed_sums(self, gradient: Tensor, weights: Tensor, cells: int) -> Tensor:
        """(S, C) gradient of the features, for the (P, C) one of the sums; S is `cells`."""
        order = self.cells.sort(stable=True)
        offsets = torch.searchsorted(order.values, indices(gradient, cells))
        window = pick(torch.repeat_interleave(self.counts), order.indices)
        return sums(window, offsets.int(), gradient, pick(weights, order.indices))


class BinSums(torch.autograd.Function):
    """Sums of features in all bins; weights are constants."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Add up.

        Args:
            features: (B, H * W, C).
            rows: (B, N, R, H) weights of the rows in each row of bins.
            columns: (B, N, R, W) weights of the columns in each column of bins.

        Returns:
            (B, N, R, R, C).
        """
        ctx.save_for_backward(rows, columns)
        ctx.shape = features.shape
        grid = rows[:, :, :, None], columns[:, :, None]
        windows = Windows.around(*grid)
        bins = windows.sums(features.flatten(0, 1), windows.weights(*grid))
        return bins.view(*rows.shape[:3], columns.shape[2], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the arguments of `forward`."""
        rows, columns = ctx.saved_tensors
        grid = rows[:, :, :, None], columns[:, :, None]
        windows, (batch, cells, _) = Windows.around(*grid), ctx.shape
        slopes = windows.transposed_sums(
            gradient.flatten(0, -2), windows.weights(*grid), batch * cells
        )
        return slopes.view(ctx.shape), None, None


class PointSums(torch.autograd.Function):
    """Bilinear samples of the bins at some points, without the bins."""

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, points: Tensor, rows: Tensor, columns: Tensor
    ) -> Tensor:
        """Sample.

        Args:
            features: (B, H * W, C).
            points: (B, N, M, 2) x and y in bins, 0 being the middle of the first of them; bins
                beyond the first and the last are zero.
            rows, columns: as for `BinSums`.

        Returns:
            (B, N, M, C).
        """
        ctx.save_for_backward(features, points, rows, columns)
        x, y = (hat(points[..., i], rows.shape[2]) for i in (0, 1))
        mixed = y @ rows, x @ columns
        windows = Windows.around(*mixed)
        samples = windows.sums(features.flatten(0, 1), windows.weights(*mixed))
        return samples.view(*points.shape[:3], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the arguments of `forward`."""
        features, points, rows, columns = ctx.saved_tensors
        flat, gradient = features.flatten(0, 1), gradient.flatten(0, 2)
        slope_x, slope_y = (hat_slope(points[..., i], rows.shape[2]) for i in (0, 1))
        x, y = (hat(points[..., i], rows.shape[2]) for i in (0, 1))
        # Where a point lies on the middle of a bin, its slope needs one that it does not read.
        windows = Windows.around(slope_y.abs() @ rows, slope_x.abs() @ columns)
        slopes = windows.transposed_sums(
            gradient, windows.weights(y @ rows, x @ columns), len(flat)
        )
        along = [
            (gradient * windows.sums(flat, windows.weights(a @ rows, b @ columns))).sum(-1)
            for a, b in ((y, slope_x), (slope_y, x))
        ]
        return (
            slopes.view_as(features),
            torch.stack(along, dim=-1).view_as(points),
            None,
            None,
        )


def hat(place: Tensor, size: int) -> Tensor:
    """Bilinear weights (..., size) of `size` bins at places (...) among them."""
    return (1 - (place[..., None] - bins_like(place, size)).abs()).clamp(min=0)


def hat_slope(place: Tensor, size: int) -> Tensor:
    """Derivatives of the weights (..., size) by the place, those to the right where it has two."""
    left = place.floor()[..., None]
    bins = bins_like(place, size)
    return (bins == left + 1).to(place.dtype) - (bins == left).to(place.dtype)


def bins_like(place: Tensor, size: int) -> Tensor:
    return torch.arange(size, device=place.device, dtype=place.dtype)


def sums(index: Tensor, offsets: Tensor, table: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of rows of a table, of which each bag begins at its offset in the index."""
    return F.embedding_bag(index, table, offsets, mode="sum", per_sample_weights=weights)


def pick(values: Tensor, index: Tensor) -> Tensor:
    """`values[index]`, which on a CPU takes four times as long."""
    return values.index_select(0, index)


def spans(weights: Tensor, shape: torch.Size) -> tuple[Tensor, Tensor, Tensor]:
    """Where weights (..., cells), expanded to `shape`, begin and how far they reach.

    Returns:
        for each of the P windows the first cell whose weight is not zero, the number of cells to
        the last such cell, and the place of the first one among the flattened weights.
    """
    used = weights != 0
    first = used.byte().argmax(-1)
    end = used.shape[-1] - used.flip(-1).byte().argmax(-1)
    count = (end - first) * used.any(-1)
    place = indices(first.flatten()).view_as(first) * weights.shape[-1] + first
    first, count, place = (x.int().expand(shape) for x in (first, count, place))
    return first.flatten(), count.flatten(), place.flatten()


def starts(counts: Tensor) -> Tensor:
    """Where each of some groups begins, which lie one after the other."""
    return counts.cumsum(0, dtype=counts.dtype) - counts


def indices(entries: Tensor, count: int | None = None) -> Tensor:
    """0, 1, ... for each of the entries of a list, or so many of them on its device."""
    count = len(entries) if count is None else count
    return torch.arange(count, dtype=torch.int32, device=entries.device)
