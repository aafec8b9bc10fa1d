"""Object queries before the first decoder layer: zero content and a reference box each.

Paper: section 4.1 ("zeros as input for the first layer"; learnable reference boxes). Reference
boxes that are not learned are those of table 5.

Shapes: B images, N queries, C channels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..checkpoint import load_file
from ..structures import FeatureLevel, Queries
from .layers import at_least

LEARNED = "queries.reference.weight"  # key of the boxes of a LearnedReference in a checkpoint


class ReferenceQueries(nn.Module, ABC):
    """Base of queries with zero content and the same reference boxes for each image.

    Args:
        num_queries: N.
        dim: C.
    """

    def __init__(self, num_queries: int, dim: int):
        super().__init__()
        at_least(1, num_queries=num_queries, dim=dim)
        self.num_queries = num_queries
        self.dim = dim

    @abstractmethod
    def logits(self) -> Tensor:
        """Return the (N, 4) logits of the reference boxes."""

    def forward(self, pyramid: Sequence[FeatureLevel]) -> Queries:
        """Return the queries of each image of the pyramid."""
        reference = self.logits().expand(pyramid[0].tokens.shape[0], -1, -1)
        return Queries(reference.new_zeros(*reference.shape[:2], self.dim), reference)


class LearnedReference(ReferenceQueries):
    """Queries with learned reference boxes."""

    def __init__(self, num_queries: int, dim: int):
        super().__init__(num_queries, dim)
        self.reference = nn.Embedding(num_queries, 4)  # normal(0, 1) logits of the boxes

    def logits(self) -> Tensor:
        return self.reference.weight


class FixedReference(ReferenceQueries):
    """Queries whose reference boxes are a buffer, which training does not change.

    Args:
        reference: (N, 4) logits of the boxes.
        dim: C.
        persistent: whether the boxes are part of the state dict.
    """

    reference: Tensor

    def __init__(self, reference: Tensor, dim: int, persistent: bool = True):
        super().__init__(len(reference), dim)
        self.register_buffer("reference", reference, persistent)

    def logits(self) -> Tensor:
        return self.reference


class CentredReference(FixedReference):
    """Queries of the original DETR, which has no reference boxes: all of them at the centre."""

    def __init__(self, num_queries: int, dim: int):
        super().__init__(torch.zeros(num_queries, 4), dim, persistent=False)


class RandomReference(FixedReference):
    """Reference boxes fixed at the initial distribution of `LearnedReference`.

    Args:
        num_queries: N.
        dim: C.
        seed: of the boxes, so that all processes of a distributed run draw the same ones.
    """

    def __init__(self, num_queries: int, dim: int, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)
        super().__init__(torch.randn(num_queries, 4, generator=generator, device="cpu"), dim)


class CheckpointReference(FixedReference):
    """Reference boxes learned by another SAM-DETR, read once from its checkpoint.

    They become part of this model's checkpoints, which can thus be evaluated without the file, with
    `RandomReference` in its place.

    Args:
        num_queries: N.
        dim: C.
        path: checkpoint of a model with `LearnedReference` and as many queries.

    Raises:
        CheckpointError: if `path` is not a checkpoint.
        ValueError: if it holds no learned reference boxes, or another number of them.
    """

    def __init__(self, num_queries: int, dim: int, path: str):
        reference = read_reference(path)
        if reference.shape != (num_queries, 4):
            raise ValueError(
                f"num_queries is {num_queries}, but {LEARNED} in path={path!r} has the shape "
                f"{tuple(reference.shape)}; expected ({num_queries}, 4)"
            )
        super().__init__(reference, dim)


def read_reference(path: str) -> Tensor:
    """Read the (N, 4) reference boxes of a checkpoint, as float32 logits."""
    state = load_file(path, {LEARNED: torch.empty(0, 4)})["model"]
    if LEARNED not in state:
        raise ValueError(
            f"path={path!r} has no {LEARNED}, must be a checkpoint of a SAM-DETR with learned "
            "reference boxes"
        )
    return state[LEARNED].float()
