"""RoIAlign of the reference boxes.

Paper: section 4.2, Eq. 2-5. RoIAlign: https://arxiv.org/abs/1703.06870.

A bin of an axis-aligned box averages a grid of bilinear samples, so its weights are the outer
product of a vector over rows and one over columns: `bin = w_y @ features @ w_x`. `roi_align` has
three kernels: Detectron2's operator (the plain twin), matrix products, which are deterministic on a
GPU, and weighted sums over lists of cells (`roi_align_cpu.py`), the fastest on a CPU.

Re-samplers need little of the 49 bins of 256 channels: 64 channels that predict the keypoints, and
bilinear samples at the 8 keypoints. `Regions` has a method for each of the two.

Shapes: B images, N boxes per image, M points per box, C channels, R x R bins per box, a level of
        H x W cells.
Units:  boxes are (cx, cy, w, h), fractions of the unpadded image, from a sigmoid: at most as large
        as the image, but they may reach outside of it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from ...structures import FeatureLevel
from ..layers import at_least, at_least_float32, eager_on_cpu, full_precision, is_traced
from . import AUTO, selected
from .boxes import corners
from .roi_align_cpu import BinSums, PointSums, bilinear_weights


class Regions:
    """Features of the bins of boxes; differentiable with respect to the features, not the boxes.

    Args:
        features: (B, N, C, R, R).
    """

    def __init__(self, features: Tensor):
        self.features = features

    def bins(self) -> Tensor:
        """Return all bins, (B, N, C, R, R)."""
        return self.features

    def project(self, convolution: nn.Conv2d) -> Tensor:
        """Apply a 1x1 convolution to the bins; returns (B, N, its channels, R, R)."""
        return convolution(self.features.flatten(0, 1)).unflatten(0, self.features.shape[:2])

    def read(self, points: Tensor) -> Tensor:
        """Bilinear samples of the bins, (B, N, M, C), with zeros around the region.

        Args:
            points: (B, N, M, 2) in the frame of the box: its corners are (-1, -1) and (1, 1).
        """
        features = F.grid_sample(
            self.features.flatten(0, 1),
            points.flatten(0, 1)[:, None].to(self.features.dtype),
            align_corners=False,
        )  # (B * N, C, 1, M)
        return features.squeeze(2).transpose(1, 2).unflatten(0, points.shape[:2])


class ProductRegions(Regions):
    """Regions sampled by matrix products: grid_sample's backward is not deterministic on a GPU."""

    def read(self, points: Tensor) -> Tensor:
        size = self.features.shape[-1]
        x, y = (bilinear_weights(p, size) for p in to_bins(points, size).unbind(-1))
        weights = (y[..., :, None] * x[..., None, :]).flatten(3).to(self.features.dtype)
        return weights @ self.features.flatten(3).mT


class CellRegions(Regions):
    """Regions that are summed from the cells of the map on demand, on a CPU.

    Bins are linear in the features, so the 1x1 convolution may come before them: it then sees
    every cell once and leaves a quarter of the channels to sum. A sample of the bins is a weighted
    sum of a few cells, and is computed without the bins.

    Args:
        tokens: (B, H * W, C) features of the map.
        rows: (B, N, R, H) weights of the map's rows in each row of bins.
        columns: (B, N, R, W) weights of the map's columns in each column of bins.
    """

    def __init__(self, tokens: Tensor, rows: Tensor, columns: Tensor):
        self.tokens, self.rows, self.columns = tokens, rows, columns

    def bins(self) -> Tensor:
        return self._bins(self.tokens)

    def project(self, convolution: nn.Conv2d) -> Tensor:
        bins = self._bins(F.linear(self.tokens, convolution.weight.flatten(1)))
        # Weights of a bin that reaches out of the map do not add up to one: the bias comes last.
        return bins if convolution.bias is None else bins + convolution.bias[:, None, None]

    def read(self, points: Tensor) -> Tensor:
        # A NaN would select whole maps; the keypoints themselves still carry it to the loss.
        places = to_bins(points, self.rows.shape[2]).nan_to_num(nan=-9.0)
        with full_precision(points.device):  # in float32, as the bins
            return PointSums.apply(at_least_float32(self.tokens), places, self.rows, self.columns)

    def _bins(self, tokens: Tensor) -> Tensor:
        # In float32, as the operator.
        bins = BinSums.apply(at_least_float32(tokens), self.rows, self.columns)
        return bins.permute(0, 1, 4, 2, 3)  # from (B, N, R, R, C)


def to_bins(points: Tensor, size: int) -> Tensor:
    """Convert points in the frame of a box to units of bins; 0 is the centre of the first bin."""
    return (at_least_float32(points) + 1) * (size / 2) - 0.5


def roi_align(
    boxes: Tensor, level: FeatureLevel, size: int, backend: str = AUTO, unpadded: bool = False
) -> Regions:
    """RoIAlign of boxes on a level, with as many samples per bin as the bin has cells.

    Args:
        boxes: (B, N, 4).
        level: the feature map; its extent is the unpadded image.
        size: R.
        backend: "operator", "products", "embedding_bag" or "auto"; `ops.backends` overrides it.
        unpadded: treat the padded cells of the map as outside of it. Detectron2's operator cannot,
            so that products take its place.
    """
    name = selected("roi_align", backend)
    if name == AUTO:
        name = fastest(boxes.device)
    if name == "operator" and not unpadded:
        return align_by_operator(boxes, level, size)
    rows, columns = bin_weights(boxes, level, size, unpadded)
    if name == "embedding_bag":
        return CellRegions(level.tokens, rows, columns)
    return align_by_products(level, rows, columns)


def fastest(device: torch.device) -> str:
    """Name of the fastest kernel for a device; the operator's backward is not deterministic."""
    if eager_on_cpu(device):
        return "embedding_bag"
    deterministic = device.type == "cuda" and torch.are_deterministic_algorithms_enabled()
    return "products" if deterministic else "operator"


def align_by_operator(boxes: Tensor, level: FeatureLevel, size: int) -> Regions:
    """`roi_align` by torchvision's operator, which is Detectron2's: the plain twin."""
    batch, num_boxes = boxes.shape[:2]
    image = torch.arange(batch, device=boxes.device, dtype=boxes.dtype)
    rois = torch.cat(
        [image.repeat_interleave(num_boxes)[:, None], to_cells(boxes, level).flatten(0, 1)], dim=1
    )
    features = at_least_float32(level.map)  # the operator has no bfloat16 kernel on a CPU
    bins = torchvision.ops.roi_align(
        features, rois.to(features.dtype), size, sampling_ratio=0, aligned=True
    )
    return Regions(bins.unflatten(0, (batch, num_boxes)))


def align_by_products(level: FeatureLevel, rows: Tensor, columns: Tensor) -> Regions:
    """`roi_align` as `rows @ features @ columns^T` for every box, forward and backward."""
    with full_precision(rows.device):  # in float32, as the operator
        features = at_least_float32(level.tokens).unflatten(1, level.size)  # (B, H, W, C)
        reduced = rows.flatten(1, 2) @ features.flatten(2)  # (B, N * R, W * C)
        reduced = reduced.view(*rows.shape[:3], *features.shape[2:])  # (B, N, R, W, C)
        bins = columns[:, :, None] @ reduced  # (B, N, R, R, C)
    return ProductRegions(bins.permute(0, 1, 4, 2, 3))


def to_cells(boxes: Tensor, level: FeatureLevel) -> Tensor:
    """Convert (B, N, 4) boxes to corners (x0, y0, x1, y1) in cells of a level, without gradient."""
    return corners(boxes.detach()) * level.extent.repeat(1, 2)[:, None]


def bin_weights(
    boxes: Tensor, level: FeatureLevel, size: int, unpadded: bool = False
) -> tuple[Tensor, Tensor]:
    """Weights (B, N, R, H) of the rows and (B, N, R, W) of the columns of a map in each bin."""
    rois = at_least_float32(to_cells(boxes, level))
    height, width = level.size
    ends: tuple[Tensor | int, ...] = width, height
    if unpadded:
        ends = level.extent[:, None, None, None].unbind(-1)  # (B, 1, 1, 1) each
    return (
        axis_weights(rois[..., 1], rois[..., 3], height, size, ends[1]),
        axis_weights(rois[..., 0], rois[..., 2], width, size, ends[0]),
    )


def axis_weights(start: Tensor, end: Tensor, cells: int, size: int, length: int | Tensor) -> Tensor:
    """Weights (…, R, cells) of the cells of one axis in each bin of (…) intervals [start, end].

    Only the first `length` cells are part of the image.
    """
    bin_size = (end - start)[..., None, None] / size  # (…, 1, 1)
    samples = bin_size.ceil()  # of a bin, as the operator's adaptive sampling has it
    # A bound that needs no synchronization: boxes are at most as large as the image, but for
    # rounding. One more in a graph, which would fix an axis of length 1 to that length.
    most = cells // size + 1 + int(is_traced())
    index = torch.arange(most, device=start.device)
    bins = torch.arange(size, device=start.device)[:, None]
    offset = bins + (index + 0.5) / samples.clamp(min=1)  # (…, R, samples) in bins
    position = start[..., None, None] - 0.5 + offset * bin_size
    inside = (index < samples) & (position >= -1) & (position <= length)
    position = position.clamp(min=0).clamp(max=length - 1)
    first = position[..., :1].floor()  # (…, R, 1)
    # Samples are at most a cell apart, so that their cells are at most one more than they are.
    # Bilinear weights of these cells in every sample: (…, R, cells of the bin, samples).
    near = torch.arange(most + 1, device=start.device)[:, None]
    bilinear = (1 - ((position - first)[..., None, :] - near).abs()).clamp(min=0)
    weights = (bilinear * (inside / samples.clamp(min=1))[..., None, :]).sum(-1)
    grid = torch.arange(cells, device=start.device) - first.long()  # (…, R, cells)
    weights = weights.gather(-1, grid.clamp(0, most))
    return weights.masked_fill((grid < 0) | (grid > most), 0)


class FastestPooler(nn.Module):
    """RoIAlign of boxes on a level with R = size, by the fastest kernel for the device."""

    backend = AUTO
    unpadded = False

    def __init__(self, size: int = 7):
        super().__init__()
        at_least(1, size=size)
        self.size = size

    def forward(self, boxes: Tensor, level: FeatureLevel) -> Regions:
        """Return the regions of (B, N, 4) boxes, see `roi_align`."""
        return roi_align(boxes, level, self.size, self.backend, self.unpadded)


class RoIAlignPooler(FastestPooler):
    """RoIAlign by Detectron2's operator."""

    backend = "operator"


class SeparablePooler(FastestPooler):
    """RoIAlign by matrix products, deterministic on every device."""

    backend = "products"


class GatherPooler(FastestPooler):
    """RoIAlign by weighted sums over lists of cells, for a CPU; on a GPU it synchronizes."""

    backend = "embedding_bag"


class UnpaddedPooler(FastestPooler):
    """RoIAlign that treats padded cells as outside of the map.

    The released models read what the encoder makes of padding where a box reaches out of its
    image. With this pooler the result does not depend on the other images of the batch.
    """

    unpadded = True
