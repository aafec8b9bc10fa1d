"""Semantics Aligner: re-sample every query from the features that it is about to attend to.

Paper: section 4.2, figure 2 (b), Eq. 2-8; the alternatives to each part are those of section 5.4,
tables 3 and 4. RoIAlign (Eq. 2) is in `ops/roi_align.py`, the sine embedding (Eq. 6) in
`position.py`.

Shapes: B images, N queries, M keypoints, C channels, R x R bins of a region, E channels of a
        descriptor.
Units:  boxes are (cx, cy, w, h) and points (x, y), both fractions of the unpadded image.
"""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import MLP

from ..structures import AlignedQueries, FeatureLevel
from .layers import at_least, at_least_float32, numbers
from .ops.roi_align import Regions
from .position import sine_embedding


class SemanticsAligner(nn.Module):
    """Re-sample every query from the features inside its reference box.

    Args:
        pooler: RoIAlign of the reference boxes (Eq. 2).
        resampler: predicts M keypoints per box and samples features there (Eq. 3-5).
        content_gate: reweights the sampled features (Eq. 7).
        position_gate: reweights the position embeddings of the keypoints (Eq. 8).

    Raises:
        ValueError: if the parts disagree on the number of keypoints or the region size.
    """

    def __init__(
        self,
        pooler: nn.Module,
        resampler: nn.Module,
        content_gate: nn.Module,
        position_gate: nn.Module,
    ):
        super().__init__()
        self.pooler = pooler
        self.resampler = resampler
        self.content_gate = content_gate
        self.position_gate = position_gate
        self.num_points = resampler.num_points
        for name, gate in (("content_gate", content_gate), ("position_gate", position_gate)):
            if gate.num_points not in (None, self.num_points):
                raise ValueError(
                    f"{name}.num_points is {gate.num_points}, but the resampler gives "
                    f"{self.num_points} keypoints"
                )
        if resampler.region_size not in (None, pooler.size):
            raise ValueError(
                f"the pooler gives {pooler.size} x {pooler.size} bins, but the resampler takes "
                f"region_size={resampler.region_size}"
            )

    def forward(
        self, x: Tensor, position: Tensor, boxes: Tensor, level: FeatureLevel
    ) -> AlignedQueries:
        """Align the queries with one feature level.

        Args:
            x: (B, N, C) content of the previous queries.
            position: (B, N, C) their position embeddings, which the new ones replace.
            boxes: (B, N, 4) reference boxes.
            level: the features that cross-attention will read.
        """
        samples = self.resampler(self.pooler(boxes, level), boxes, level)
        content = self.content_gate(samples.features, x)
        embedding = sine_embedding(samples.points, x.shape[-1])  # Eq. 6
        position = self.position_gate(embedding, x)
        return AlignedQueries(content, position, samples.points, samples.descriptor)


class NoAligner(nn.Module):
    """Pass the queries to cross-attention unchanged, as in the original DETR."""

    num_points = 1

    def forward(
        self, x: Tensor, position: Tensor, boxes: Tensor, level: FeatureLevel
    ) -> AlignedQueries:
        """Same as `SemanticsAligner.forward`; the only point is the centre of the box."""
        return AlignedQueries(x[:, :, None], position[:, :, None], boxes[:, :, None, :2], x)


class Gate(nn.Module):
    """Feature reweighting by the previous queries (Eq. 7 and 8).

    Args:
        dim: C.
        num_points: M.
    """

    def __init__(self, dim: int, num_points: int):
        super().__init__()
        at_least(1, dim=dim, num_points=num_points)
        self.num_points = num_points
        self.coefficients = nn.Linear(dim, num_points * dim)

    def forward(self, features: Tensor, x: Tensor) -> Tensor:
        """Scale each channel of the (B, N, M, C) features by the (B, N, C) queries x."""
        return features * self.coefficients(x).sigmoid().view_as(features)


class OpenGate(nn.Module):
    """No reweighting (table 3), for any number of keypoints."""

    num_points: int | None = None

    def forward(self, features: Tensor, x: Tensor) -> Tensor:
        """Return the (B, N, M, C) features unchanged."""
        return features


class Samples(NamedTuple):
    """Features that a re-sampler read for each box, and the points where it read them."""

    features: Tensor  # (B, N, M, C)
    points: Tensor  # (B, N, M, 2)
    descriptor: Tensor  # (B, N, E)


class KeypointResampler(nn.Module):
    """Predict keypoints in each box by a small ConvNet and an MLP, and sample features there.

    Args:
        dim: C.
        num_points: M.
        region_size: R of the pooler.
        reduced_dim: channels of the region after the 1x1 convolution.
        hidden_dims: layers of the MLP before the last one, which predicts the coordinates. The
            output of the last hidden layer is the descriptor (E), from which SMCA predicts widths.
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
        """Zero the bias of the keypoint layer.

        The official code zeroes its weight as well, so that keypoints would start at the box
        centre, but a later Xavier pass over the whole transformer overwrites it. The published
        results start from a Xavier weight, and so does `DecoderLayer`.
        """
        nn.init.zeros_(self.keypoints.bias)

    def forward(self, regions: Regions, boxes: Tensor, level: FeatureLevel) -> Samples:
        """Sample features at M keypoints per box.

        Args:
            regions: region features of the boxes.
            boxes: (B, N, 4).
            level: the features that the regions were pooled from.
        """
        reduced = regions.project(self.reduce).flatten(2).relu()  # (B, N, reduced_dim * R * R)
        descriptor = self.describe(reduced).relu()
        offsets = at_least_float32(self.keypoints(descriptor)).unflatten(-1, (-1, 2))
        features, points = self.read(offsets, regions, boxes, level)
        return Samples(features, points, descriptor)

    def read(
        self, offsets: Tensor, regions: Regions, boxes: Tensor, level: FeatureLevel
    ) -> tuple[Tensor, Tensor]:
        """Sample at (B, N, M, 2) predicted offsets, constrained to the boxes.

        Returns:
            (B, N, M, C) features and their (B, N, M, 2) points.
        """
        keypoints = offsets.tanh()  # in the frame of the box: its corners are (-1, -1) and (1, 1)
        # As in the official code, a keypoint on the box border interpolates halfway with zeros.
        features = regions.read(keypoints)
        return features, boxes[:, :, None, :2] + 0.5 * boxes[:, :, None, 2:] * keypoints


class ImageKeypointResampler(KeypointResampler):
    """Keypoints anywhere in the image (table 4), still predicted from the region.

    The paper does not give the parametrisation. Here the offset is added to the logit of the box
    centre, like a box prediction to its reference: a zero offset is the box centre, and every
    offset stays inside the image. Features are sampled from the level, since the region ends at
    the box.
    """

    def read(
        self, offsets: Tensor, regions: Regions, boxes: Tensor, level: FeatureLevel
    ) -> tuple[Tensor, Tensor]:
        """Same as in the parent, constrained to the image."""
        unpadded = level.extent / numbers(level.size[::-1], level.extent)  # (B, 2) of the map
        # Like RoIAlign, pass no gradient to the boxes through the features.
        locations = shift_centres(boxes.detach(), offsets) * unpadded[:, None, None]
        features = F.grid_sample(
            at_least_float32(level.map), 2 * locations - 1, align_corners=False
        )  # (B, C, N, M)
        return features.permute(0, 2, 3, 1), shift_centres(boxes, offsets)


def shift_centres(boxes: Tensor, offsets: Tensor) -> Tensor:
    """Add (B, N, M, 2) offsets to the logits of the centres of (B, N, 4) boxes: (B, N, M, 2)."""
    return (boxes[:, :, None, :2].logit(eps=1e-5) + offsets).sigmoid()


class AverageResampler(nn.Module):
    """Mean of the region as the only vector (table 3): its own descriptor, at the box centre.

    Needs `ConcatenatedCrossAttention(num_points=1)`, which splits the vector among the heads;
    otherwise all heads would attend alike.
    """

    num_points = 1
    region_size: int | None = None  # any

    def forward(self, regions: Regions, boxes: Tensor, level: FeatureLevel) -> Samples:
        """Same as `KeypointResampler.forward` with M = 1 and E = C."""
        vector = self.pool(regions.bins().flatten(3))
        return Samples(vector[:, :, None], boxes[:, :, None, :2], vector)

    def pool(self, bins: Tensor) -> Tensor:
        """Reduce (B, N, C, R * R) bins to (B, N, C)."""
        return bins.mean(-1)


class MaxResampler(AverageResampler):
    """Maximum of every channel over the region, in place of the mean."""

    def pool(self, bins: Tensor) -> Tensor:
        """Reduce (B, N, C, R * R) bins to (B, N, C)."""
        return bins.amax(-1)
