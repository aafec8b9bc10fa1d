"""Region features of the reference boxes.

Paper: section 4.2, Eq. 2. RoIAlign: https://arxiv.org/abs/1703.06870.

Shapes: B images, N boxes per image, C channels, R x R bins per box, a level of H x W cells.
Units:  boxes are (cx, cy, w, h), fractions of the unpadded image, from a sigmoid: at most the
        image wide and high, but free to reach outside of it.
"""

from __future__ import annotations

import torch
from detectron2.layers import ROIAlign
from torch import Tensor, nn

from ...structures import FeatureLevel
from ..layers import at_least, at_least_float32, eager_on_cpu, full_precision
from .boxes import corners
from .regions import DenseRegions, GatheredRegions, PooledRegions, Regions

Length = int | Tensor  # of an axis in cells; a tensor has one for each image


def boxes_in_cells(boxes: Tensor, level: FeatureLevel) -> Tensor:
    """(B, N, 4) boxes to corners (x0, y0, x1, y1) in cells of a level, without gradient."""
    return corners(boxes.detach()) * level.extent.repeat(1, 2)[:, None]


class Pooler(nn.Module):
    """RoIAlign of boxes on a level, with as many samples per bin as it has cells.

    Args:
        size: R.
    """

    def __init__(self, size: int = 7):
        super().__init__()
        at_least(1, size=size)
        self.size = size

    def forward(self, boxes: Tensor, level: FeatureLevel) -> Regions:
        """Regions of (B, N, 4) boxes, differentiable by the features but not by the boxes."""
        raise NotImplementedError


class RoIAlignPooler(Pooler):
    """RoIAlign by Detectron2's operator."""

    def __init__(self, size: int = 7):
        super().__init__(size)
        self.pool = ROIAlign((size, size), spatial_scale=1.0, sampling_ratio=0, aligned=True)

    def forward(self, boxes: Tensor, level: FeatureLevel) -> Regions:
        """As `Pooler.forward`."""
        batch, num_boxes = boxes.shape[:2]
        image = torch.arange(batch, device=boxes.device, dtype=boxes.dtype)
        rois = torch.cat(
            [
                image.repeat_interleave(num_boxes)[:, None],
                boxes_in_cells(boxes, level).flatten(0, 1),
            ],
            dim=1,
        )
        # In float32: the operator has no bfloat16 kernel on a CPU.
        bins = self.pool(at_least_float32(level.map), rois)
        return PooledRegions(bins.unflatten(0, (batch, num_boxes)))


class SeparablePooler(Pooler):
    """The same RoIAlign as matrix products, for a GPU where it must be deterministic.

    A bin of an axis-aligned box averages a grid of bilinear samples, so its weights are an outer
    product: `out = W_y @ features @ W_x^T` for every box. Backward is matrix products too, where
    the operator scatters with atomic adds.
    """

    def forward(self, boxes: Tensor, level: FeatureLevel) -> Regions:
        """As `Pooler.forward`."""
        with full_precision(boxes.device):  # in float32, as the operator
            weight_y, weight_x = self.weights(boxes, level)
            features = at_least_float32(level.tokens).unflatten(1, level.size)  # (B, H, W, C)
            rows = weight_y.flatten(1, 2) @ features.flatten(2)  # (B, N * R, W * C)
            rows = rows.view(*weight_y.shape[:3], *features.shape[2:])  # (B, N, R, W, C)
            bins = weight_x[:, :, None] @ rows  # (B, N, R, R, C)
            return DenseRegions(bins.permute(0, 1, 4, 2, 3))

    def weights(self, boxes: Tensor, level: FeatureLevel) -> tuple[Tensor, Tensor]:
        """As `bin_weights`."""
        return bin_weights(boxes, level, self.size)


class GatherPooler(Pooler):
    """The same RoIAlign as sums over lists of cells, on a CPU; it waits for the boxes on a GPU."""

    def forward(self, boxes: Tensor, level: FeatureLevel) -> Regions:
        """As `Pooler.forward`."""
        return GatheredRegions(level.tokens, *bin_weights(boxes, level, self.size))


class FastestPooler(Pooler):
    """RoIAlign in whichever of these ways is the fastest where it runs.

    On a CPU sums over lists of cells are, on every level that was measured, and take the least
    memory. On a GPU they would have to wait for the boxes: there it is Detectron2's operator,
    or matrix products if results have to be deterministic, which its backward pass is not.
    """

    def __init__(self, size: int = 7):
        super().__init__(size)
        self.gather = GatherPooler(size)
        self.operator = RoIAlignPooler(size)
        self.products = SeparablePooler(size)

    def forward(self, boxes: Tensor, level: FeatureLevel) -> Regions:
        """As `Pooler.forward`."""
        return self.choose(boxes.device)(boxes, level)

    def choose(self, device: torch.device) -> Pooler:
        """The way for tensors of a device."""
        if eager_on_cpu(device):
            return self.gather
        if device.type == "cuda" and torch.are_deterministic_algorithms_enabled():
            return self.products
        return self.operator


class UnpaddedPooler(SeparablePooler):
    """RoIAlign of the images as they are, of which the padded cells of the map are no part.

    Where a box reaches out of its image, the released models read what the encoder makes of
    padding. Here nothing is read that is not the image's, so that what else is in the batch, and
    how much padding that makes, does not matter. Lists of cells on a CPU, else products.
    """

    def forward(self, boxes: Tensor, level: FeatureLevel) -> Regions:
        """As `Pooler.forward`."""
        if eager_on_cpu(boxes.device):
            return GatheredRegions(level.tokens, *self.weights(boxes, level))
        return super().forward(boxes, level)

    def weights(self, boxes: Tensor, level: FeatureLevel) -> tuple[Tensor, Tensor]:
        """As `bin_weights`; with room to spare, so that a traced graph is for maps of all sizes."""
        width, height = level.extent[:, None, None, None].unbind(-1)  # (B, 1, 1, 1) each
        return bin_weights(boxes, level, self.size, spare=1, ends=(height, width))


def bin_weights(
    boxes: Tensor,
    level: FeatureLevel,
    size: int,
    spare: int = 0,
    ends: tuple[Length, Length] | None = None,
) -> tuple[Tensor, Tensor]:
    """(B, N, R, H) weights of rows and (B, N, R, W) weights of columns in the bins of boxes.

    Their product is the weight of a cell.

    Args:
        size: R.
        spare: as in `axis_weights`.
        ends: cells after which what is read ends, downwards and to the right; else the level's.
    """
    rois = at_least_float32(boxes_in_cells(boxes, level))
    y, x = ends or level.size
    height, width = level.size
    return (
        axis_weights(rois[..., 1], rois[..., 3], height, size, spare, y),
        axis_weights(rois[..., 0], rois[..., 2], width, size, spare, x),
    )


def axis_weights(
    start: Tensor, end: Tensor, cells: int, size: int, spare: int, length: Length
) -> Tensor:
    """Weights of the cells of one axis in each bin of intervals [start, end], (…, R, cells).

    Room is made for as many samples as the largest bin has, and for some to spare. Of the cells
    only the first ones are read, as many as `length` says.
    """
    bin_size = (end - start)[..., None, None] / size  # (…, 1, 1)
    samples = bin_size.ceil()  # of a bin, as the operator's adaptive sampling has it
    # No box is larger than the image but for rounding: a bound that asks nothing of the device.
    most = cells // size + 1 + spare
    index = torch.arange(most, device=start.device)
    bins = torch.arange(size, device=start.device)[:, None]
    offset = bins + (index + 0.5) / samples.clamp(min=1)  # (…, R, samples) in bins
    position = start[..., None, None] - 0.5 + offset * bin_size
    inside = (index < samples) & (position >= -1) & (position <= length)
    position = position.clamp(min=0).clamp(max=length - 1)
    first = position[..., :1].floor()  # (…, R, 1)
    # Samples are a cell apart at most: one cell more than samples holds all of them. Bilinear
    # weights of these cells in every sample: (…, R, cells of the bin, samples).
    near = torch.arange(most + 1, device=start.device)[:, None]
    hat = (1 - ((position - first)[..., None, :] - near).abs()).clamp(min=0)
    weights = (hat * (inside / samples.clamp(min=1))[..., None, :]).sum(-1)
    grid = torch.arange(cells, device=start.device) - first.long()  # (…, R, cells)
    weights = weights.gather(-1, grid.clamp(0, most))
    return weights.masked_fill((grid < 0) | (grid > most), 0)
