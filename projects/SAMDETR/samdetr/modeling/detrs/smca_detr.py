"""SMCA-DETR: every head of a query looks around a point of its own, near the query's anchor.

A row of tables 1 and 2. SMCA: https://arxiv.org/abs/2101.07448, section 3.2, without the features
of several scales and their selection. What is followed:

- the query predicts its centre, from which boxes start too: `AnchoredQueryPosition` with an MLP of
  three layers, and `AnchoredPredictionHead`;
- the query predicts, for each head, an offset of the centre: `HeadAligner`;
- and, for each head, a width and a height: `GaussianPrior`, whose log is added to the scores of the
  ordinary cross-attention. As in the code of SMCA the network predicts the inverse of the width.

The query is here what enters cross-attention, as with the Semantics Aligner, and not what enters
the layer: content and position together, behind a norm.

Shapes: B images, N queries, M heads, C channels.
Units:  points are fractions of the unpadded image, offsets cells.
"""

from __future__ import annotations

from torch import Tensor, nn

from ...structures import AlignedQueries, FeatureLevel
from ..layers import at_least_float32


class HeadAligner(nn.Module):
    """Queries go into cross-attention as they are, with a point for each head.

    Args:
        dim: C.
        num_heads: M.
    """

    num_points = 1  # vectors per query

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.offset = nn.Linear(dim, 2 * num_heads)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Offsets start without bias; like all matrices of the decoder, the weight gets Xavier."""
        nn.init.zeros_(self.offset.bias)

    def forward(
        self, x: Tensor, position: Tensor, boxes: Tensor, level: FeatureLevel
    ) -> AlignedQueries:
        """As `SemanticsAligner.forward`, with the (B, N, C) query as the descriptor."""
        query = self.norm(x + position)
        offset = at_least_float32(self.offset(query)).unflatten(-1, (-1, 2))  # (B, N, M, 2) cells
        points = boxes[:, :, None, :2] + offset / level.extent[:, None, None]
        return AlignedQueries(x[:, :, None], position[:, :, None], points, query)
