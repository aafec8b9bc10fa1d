"""Spatially modulated cross-attention: a Gaussian prior around every keypoint.

Paper: section 4.5.1, the "w/ SMCA" variants. SMCA: https://arxiv.org/abs/2101.07448.

Shapes: B images, N queries, M keypoints (one per head), S = H * W cells of one feature level.
Units:  points are fractions of the unpadded image, cells are pixels of the feature map.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..structures import AlignedQueries, FeatureLevel
from .attention import PaddingPrior
from .layers import at_least, at_least_float32
from .ops.attend import SeparableBias


class GaussianPrior(PaddingPrior):
    """Log-density of a Gaussian around each keypoint, added to the attention logits.

    It stays in float32 under autocast. The Gaussian is separable, so the (B, N, M, S) grid is never
    built.

    Args:
        descriptor_dim: channels of `AlignedQueries.descriptor`, which predicts the widths.
        num_points: M, the keypoints per query.
        bandwidth: divides the squared distance (cells ** 2); 8 in SMCA.
    """

    def __init__(self, descriptor_dim: int, num_points: int, bandwidth: float = 8.0):
        super().__init__()
        at_least(1, descriptor_dim=descriptor_dim, num_points=num_points)
        if not bandwidth > 0:
            raise ValueError(f"bandwidth is {bandwidth}, must be above 0")
        self.num_points = num_points
        self.bandwidth = bandwidth
        self.scale = nn.Linear(descriptor_dim, 2 * num_points)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Zero the bias; the weight gets Xavier like all matrices of the decoder."""
        nn.init.zeros_(self.scale.bias)

    def forward(self, aligned: AlignedQueries, level: FeatureLevel) -> SeparableBias:
        """Return the bias of the (B, M, N, S) scores, -inf on padded cells."""
        height, width = level.size
        centre = (aligned.points * level.extent[:, None, None]).transpose(1, 2)  # (B, M, N, 2)
        slope = self.slope(aligned.descriptor).transpose(1, 2)  # (B, M, N, 2)
        x = torch.arange(width, device=centre.device) + 0.5
        y = torch.arange(height, device=centre.device) + 0.5
        # Padding is separable as well: it fills whole columns and rows.
        outside = level.padding.unflatten(1, level.size)  # (B, H, W)
        columns = slope[..., :1] * (x - centre[..., :1]).square()
        rows = slope[..., 1:] * (y - centre[..., 1:]).square()
        return SeparableBias(
            columns.masked_fill(outside.all(1)[:, None, None], -torch.inf),
            rows.masked_fill(outside.all(2)[:, None, None], -torch.inf),
        )

    def slope(self, descriptor: Tensor) -> Tensor:
        """Log-density per squared cell along x and y, at most 0: (B, N, M, 2)."""
        scale = at_least_float32(self.scale(descriptor)).unflatten(-1, (-1, 2))
        return scale.square() / -self.bandwidth
