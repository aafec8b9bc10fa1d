"""Region features of boxes, of which a re-sampler takes what it needs.

Paper: section 4.2, Eq. 2-5. A RoIAlign has 49 bins of 256 channels; the keypoints are predicted
from 64 channels of them, and features are read at 8 points.

Shapes: B images, N boxes per image, M points per box, C channels, R x R bins per box.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import at_least_float32, full_precision
from .roi_align_cpu import BinSums, PointSums, bins_like


class Regions(ABC):
    """Features of the bins of boxes; gradients reach the features, but not the boxes."""

    @abstractmethod
    def bins(self) -> Tensor:
        """All of them, (B, N, C, R, R)."""

    @abstractmethod
    def project(self, convolution: nn.Conv2d) -> Tensor:
        """The bins after a 1x1 convolution, (B, N, its channels, R, R)."""

    @abstractmethod
    def read(self, points: Tensor) -> Tensor:
        """Bilinear samples of the bins, (B, N, M, C), with zeros around the region.

        Args:
            points: (B, N, M, 2) in the frame of the box: its corners are (-1, -1) and (1, 1).
        """


class PooledRegions(Regions):
    """Regions whose bins are there.

    Args:
        features: (B, N, C, R, R).
    """

    def __init__(self, features: Tensor):
        self.features = features

    def bins(self) -> Tensor:
        return self.features

    def project(self, convolution: nn.Conv2d) -> Tensor:
        return convolution(self.features.flatten(0, 1)).unflatten(0, self.features.shape[:2])

    def read(self, points: Tensor) -> Tensor:
        features = F.grid_sample(
            self.features.flatten(0, 1),
            points.flatten(0, 1)[:, None].to(self.features.dtype),
            align_corners=False,
        )  # (B * N, C, 1, M)
        return features.squeeze(2).transpose(1, 2).unflatten(0, points.shape[:2])


class DenseRegions(PooledRegions):
    """The same, read by products: grid_sample's backward pass on a GPU is not deterministic."""

    def read(self, points: Tensor) -> Tensor:
        size = self.features.shape[-1]
        x, y = (mix(in_bins(points, size)[..., i], size) for i in (0, 1))  # (B, N, M, R)
        weights = (y[..., :, None] * x[..., None, :]).flatten(3).to(self.features.dtype)
        return weights @ self.features.flatten(3).mT


class GatheredRegions(Regions):
    """Regions that are added up from the cells as they are asked for, on a CPU.

    Bins are linear in the features, and so a 1x1 convolution may as well come before them: it then
    sees every cell once and leaves a quarter of the channels to add up. A sample of the bins is
    a sum over a few of their cells, and so is read off the map without them.

    Args:
        tokens: (B, H * W, C) features of the map.
        rows: (B, N, R, H) weights of its rows in each row of bins.
        columns: (B, N, R, W) weights of its columns in each column of bins.
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
        # What is not a number would take whole maps; it comes back with the points themselves.
        places = in_bins(points, self.rows.shape[2]).nan_to_num(nan=-9.0)
        with full_precision(points.device):  # in float32, as the bins
            return PointSums.apply(at_least_float32(self.tokens), places, self.rows, self.columns)

    def _bins(self, tokens: Tensor) -> Tensor:
        # In float32, as Detectron2's operator.
        bins = BinSums.apply(at_least_float32(tokens), self.rows, self.columns)
        return bins.permute(0, 1, 4, 2, 3)  # from (B, N, R, R, C)


def in_bins(points: Tensor, size: int) -> Tensor:
    """Points in the frame of a box as places among its bins, 0 being the middle of the first."""
    return (at_least_float32(points) + 1) * (size / 2) - 0.5


def mix(place: Tensor, size: int) -> Tensor:
    """Bilinear weights (..., size) of the bins; between two slopes that to the right counts."""
    left = place.detach().floor()[..., None]
    far, bins = place[..., None] - left, bins_like(place, size)
    return (bins == left) * (1 - far) + (bins == left + 1) * far
