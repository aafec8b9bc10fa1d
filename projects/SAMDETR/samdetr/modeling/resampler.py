"""Re-sampling: which features of its region become a query's new content.

Paper: section 4.2, "Semantic-Aligned Matching with Multiple Representative Keypoints", Eq. 3-5.

Shapes: B images, N queries, M keypoints, C channels, R x R bins of a region, E of a descriptor.
Units:  keypoints are (x, y) in the box's own frame: (-1, -1) and (1, 1) are its corners.
"""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import MLP


class Samples(NamedTuple):
    """What a re-sampler found in the regions."""

    features: Tensor  # (B, N, M, C)
    keypoints: Tensor  # (B, N, M, 2)
    descriptor: Tensor  # (B, N, E)


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

    def forward(self, regions: Tensor) -> Samples:
        """(B, N, C, R, R) region features to features, places and descriptor of M keypoints."""
        flat = regions.flatten(0, 1)  # (B * N, C, R, R)
        descriptor = self.describe(self.reduce(flat).relu().flatten(1)).relu()
        keypoints = self.keypoints(descriptor).float().tanh().unflatten(-1, (1, -1, 2))
        # As in the paper's code a keypoint on the rim of the box reads halfway into zeros.
        features = F.grid_sample(flat, keypoints.to(flat.dtype), align_corners=False)
        features = features.squeeze(2).transpose(1, 2)  # (B * N, M, C) from (B * N, C, 1, M)
        outputs = (features, keypoints.squeeze(1), descriptor)
        return Samples(*(x.unflatten(0, regions.shape[:2]) for x in outputs))
