"""Semantics Aligner: new queries from the features that they are about to attend to.

Paper: section 4.2, figure 2 (b), Eq. 2-8.

Shapes: B images, N queries, M keypoints, C channels.
"""

from __future__ import annotations

from torch import Tensor, nn

from ..structures import AlignedQueries, FeatureLevel
from .arguments import at_least
from .position import sine_embedding


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
        """(B, N, M, C) features, each channel weighted by the (B, N, C) queries x."""
        return features * self.coefficients(x).sigmoid().view_as(features)


class OpenGate(nn.Module):
    """No reweighting, of any number of keypoints (table 3)."""

    num_points: int | None = None

    def forward(self, features: Tensor, x: Tensor) -> Tensor:
        """The (B, N, M, C) features as they are."""
        return features


class SemanticsAligner(nn.Module):
    """Re-samples every query from the features inside its reference box.

    Args:
        pooler: region features of the boxes (Eq. 2).
        resampler: features, places and descriptor of M points for each box (Eq. 3-5).
        content_gate: reweighting of the features (Eq. 7).
        position_gate: reweighting of the position embeddings (Eq. 8).

    Raises:
        ValueError: if the parts do not fit together.
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
            x: (B, N, C) previous queries.
            position: (B, N, C) their positions, which the new ones replace.
            boxes: (B, N, 4) reference boxes.
            level: the features that cross-attention will read.
        """
        samples = self.resampler(self.pooler(boxes, level), boxes, level)
        content = self.content_gate(samples.features, x)
        embedding = sine_embedding(samples.points, x.shape[-1])  # Eq. 6
        position = self.position_gate(embedding, x)
        return AlignedQueries(content, position, samples.points, samples.descriptor)


class NoAligner(nn.Module):
    """The original DETR: queries go into cross-attention as they are."""

    num_points = 1

    def forward(
        self, x: Tensor, position: Tensor, boxes: Tensor, level: FeatureLevel
    ) -> AlignedQueries:
        """As `SemanticsAligner.forward`, with the centre of the box as the only point."""
        return AlignedQueries(x[:, :, None], position[:, :, None], boxes[:, :, None, :2], x)
