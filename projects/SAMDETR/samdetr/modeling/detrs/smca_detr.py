"""SMCA-DETR: every head of a query attends around a point of its own, near the query's anchor.

A row of tables 1 and 2. SMCA: https://arxiv.org/abs/2101.07448, section 3.2, without its
multi-scale features and their selection:

- the query predicts its centre, from which its boxes start as well: `AnchoredQueryPosition` with
  an MLP of three layers, and `AnchoredPredictionHead`;
- the query predicts an offset from the centre for each head: `HeadAligner`;
- and a width and a height for each head: `GaussianPrior`, the log-density added to the scores of
  ordinary cross-attention. As in SMCA's code the network predicts the inverse of the width.

"The query" is here what enters cross-attention, as in the Semantics Aligner, rather than what
enters the layer: content plus position, behind a layer norm.

Shapes: B images, N queries, M heads, C channels.
Units:  points are fractions of the unpadded image, offsets are in cells.
"""

from __future__ import annotations

from torch import Tensor, nn

from ...structures import AlignedQueries, FeatureLevel
from ..layers import at_least_float32


class HeadAligner(nn.Module):
    """Pass the queries to cross-attention unchanged, with a predicted point for each head.

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
        """Zero the bias of the offsets; their weight gets Xavier like all of the decoder."""
        nn.init.zeros_(self.offset.bias)

    def forward(
        self, x: Tensor, position: Tensor, boxes: Tensor, level: FeatureLevel
    ) -> AlignedQueries:
        """Same as `SemanticsAligner.forward`; the descriptor is the (B, N, C) query."""
        query = self.norm(x + position)
        offset = at_least_float32(self.offset(query)).unflatten(-1, (-1, 2))  # (B, N, M, 2) cells
        points = boxes[:, :, None, :2] + offset / level.extent[:, None, None]
        return AlignedQueries(x[:, :, None], position[:, :, None], points, query)
