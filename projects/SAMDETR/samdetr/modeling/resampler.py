"""Re-sampling: which features of its region become a query's new content.

Paper: section 4.2, Eq. 3-5; the other choices are those of section 5.4, tables 3 and 4.

Shapes: B images, N queries, M keypoints, C channels, R x R bins of a region, E of a descriptor.
Units:  boxes are (cx, cy, w, h) and points (x, y), both fractions of the unpadded image.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import MLP

from ..structures import FeatureLevel
from .arguments import at_least
from .layers import at_least_float32, numbers
from .ops.regions import Regions


class Samples(NamedTuple):
    """What a re-sampler found for the boxes."""

    features: Tensor  # (B, N, M, C)
    points: Tensor  # (B, N, M, 2) the places they stand for
    descriptor: Tensor  # (B, N, E)


class PooledResampler(nn.Module, ABC):
    """One vector for a whole region, which is its own descriptor and lies in the box's centre.

    It needs a cross-attention that splits it among the heads, `ConcatenatedCrossAttention` with one
    point: else all heads would attend alike.
    """

    num_points = 1
    region_size: int | None = None  # any

    @abstractmethod
    def pool(self, bins: Tensor) -> Tensor:
        """(B, N, C, R * R) features of the bins to (B, N, C)."""

    def forward(self, regions: Regions, boxes: Tensor, level: FeatureLevel) -> Samples:
        """As `KeypointResampler.forward`, M being 1 and E being C."""
        vector = self.pool(regions.bins().flatten(3))
        return Samples(vector[:, :, None], boxes[:, :, None, :2], vector)


class AverageResampler(PooledResampler):
    """The mean of the region."""

    def pool(self, bins: Tensor) -> Tensor:
        return bins.mean(-1)


class MaxResampler(PooledResampler):
    """The maximum of every channel over the region."""

    def pool(self, bins: Tensor) -> Tensor:
        return bins.amax(-1)


class KeypointResampler(nn.Module):
    """A small ConvNet and an MLP place keypoints in each box; features are read off there.

    Args:
        dim: C.
        num_points: M.
        region_size: R of the pooler.
        reduced_dim: channels of the region after the 1x1 convolution.
        hidden_dims: layers of the MLP before the last, which gives the coordinates. The output of
            the last of them is the descriptor (E), from which SMCA predicts its widths in parallel.
    """

    def __init__(
        self,
        dim: int,
        num_points: int,
        region_size: int = 7,
        reduced_dim: int = 64,
        hidden_dims: tuple[int, ...] = (256, 512, 512),
    ):
        super().__init__()
        at_least(1, dim=dim, num_points=num_points, region_size=region_size)
        at_least(1, reduced_dim=reduced_dim, hidden_dims=min(hidden_dims, default=0))
        self.num_points = num_points
        self.region_size = region_size
        self.reduce = nn.Conv2d(dim, reduced_dim, kernel_size=1)
        self.describe = MLP(reduced_dim * region_size**2, list(hidden_dims))
        self.keypoints = nn.Linear(hidden_dims[-1], 2 * num_points)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Keypoints start without bias.

        The paper's code zeroes the weight as well, to start in the box centre, but its Xavier pass
        over the whole transformer comes later and undoes that: the published results start from a
        Xavier weight, and so does `DecoderLayer`.
        """
        nn.init.zeros_(self.keypoints.bias)

    def forward(self, regions: Regions, boxes: Tensor, level: FeatureLevel) -> Samples:
        """Features, places and descriptor of M keypoints per box.

        Args:
            regions: of the boxes.
            boxes: (B, N, 4).
            level: the features that the regions are from.
        """
        reduced = regions.project(self.reduce).flatten(2).relu()  # (B, N, reduced_dim * R * R)
        descriptor = self.describe(reduced).relu()
        offsets = at_least_float32(self.keypoints(descriptor)).unflatten(-1, (-1, 2))
        features, points = self.read(offsets, regions, boxes, level)
        return Samples(features, points, descriptor)

    def read(
        self, offsets: Tensor, regions: Regions, boxes: Tensor, level: FeatureLevel
    ) -> tuple[Tensor, Tensor]:
        """Constrain (B, N, M, 2) offsets to the boxes; (B, N, M, C) features and the places."""
        keypoints = offsets.tanh()  # in the frame of the box: its corners are (-1, -1) and (1, 1)
        # As in the paper's code a keypoint on the rim of the box reads halfway into zeros.
        features = regions.read(keypoints)
        return features, boxes[:, :, None, :2] + 0.5 * boxes[:, :, None, 2:] * keypoints


class ImageKeypointResampler(KeypointResampler):
    """Keypoints that may lie anywhere in the image (table 4); the region still predicts them.

    The paper does not say how. Here an offset is added to the logit of the box's centre, as a
    prediction is to its reference: with no offset a keypoint lies in the centre, as with the search
    in the box, and no offset leads out of the image. The region ends with the box, so features are
    read off the map of the level.
    """

    def read(
        self, offsets: Tensor, regions: Regions, boxes: Tensor, level: FeatureLevel
    ) -> tuple[Tensor, Tensor]:
        """As in the parent, constrained to the image."""
        unpadded = level.extent / numbers(level.size[::-1], level.extent)  # (B, 2) of the map
        # As through RoIAlign, no gradient reaches the boxes through the features.
        places = beside_centres(boxes.detach(), offsets) * unpadded[:, None, None]
        features = F.grid_sample(at_least_float32(level.map), 2 * places - 1, align_corners=False)
        return features.permute(0, 2, 3, 1), beside_centres(boxes, offsets)  # from (B, C, N, M)


def beside_centres(boxes: Tensor, offsets: Tensor) -> Tensor:
    """Points in the image, offsets being logits: (B, N, 4) and (B, N, M, 2) to (B, N, M, 2)."""
    return (boxes[:, :, None, :2].logit(eps=1e-5) + offsets).sigmoid()
