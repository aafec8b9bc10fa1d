"""Object queries before the first decoder layer: zero content and a reference box each.

Paper: section 4.1 ("zeros as input for the first layer"; learnable reference boxes).

Shapes: B images, N queries, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..structures import Queries


class LearnedReference(nn.Module):
    """Queries with learned reference boxes.

    Args:
        num_queries: N.
        dim: C.
    """

    def __init__(self, num_queries: int, dim: int):
        super().__init__()
        self.num_queries = num_queries
        self.dim = dim
        self.reference = nn.Embedding(num_queries, 4)  # normal(0, 1) logits of the boxes

    def forward(self, batch_size: int) -> Queries:
        """The same queries for each of `batch_size` images."""
        return _queries(self.reference.weight, batch_size, self.dim)


class CentredReference(nn.Module):
    """Queries of the original DETR, which has no reference boxes: all lie in the middle.

    Args:
        num_queries: N.
        dim: C.
    """

    reference: Tensor

    def __init__(self, num_queries: int, dim: int):
        super().__init__()
        self.num_queries = num_queries
        self.dim = dim
        self.register_buffer("reference", torch.zeros(num_queries, 4), persistent=False)

    def forward(self, batch_size: int) -> Queries:
        """The same queries for each of `batch_size` images."""
        return _queries(self.reference, batch_size, self.dim)


def _queries(reference: Tensor, batch_size: int, dim: int) -> Queries:
    content = reference.new_zeros(batch_size, len(reference), dim)
    return Queries(content, reference.expand(batch_size, -1, -1))
