"""Object queries before the first decoder layer: zero content and a reference box each.

Paper: section 4.1 ("zeros as input for the first layer"; learnable reference boxes); boxes that are
not learned are those of table 5.

Shapes: B images, N queries, C channels.
"""

from __future__ import annotations

import os

import torch
from detectron2.utils.file_io import PathManager
from torch import Tensor, nn

from ..convert import read_state_dict
from ..structures import Queries
from .arguments import at_least

LEARNED = "queries.reference.weight"  # the boxes of a LearnedReference in a checkpoint


class LearnedReference(nn.Module):
    """Queries with learned reference boxes.

    Args:
        num_queries: N.
        dim: C.
    """

    def __init__(self, num_queries: int, dim: int):
        super().__init__()
        at_least(1, num_queries=num_queries, dim=dim)
        self.num_queries = num_queries
        self.dim = dim
        self.reference = nn.Embedding(num_queries, 4)  # normal(0, 1) logits of the boxes

    def forward(self, batch_size: int) -> Queries:
        """The same queries for each of `batch_size` images."""
        return _queries(self.reference.weight, batch_size, self.dim)


class FixedReference(nn.Module):
    """Queries whose reference boxes are given, and a buffer: training leaves them as they are.

    Args:
        reference: (N, 4) logits of the boxes.
        dim: C.
        persistent: if a checkpoint has them.
    """

    reference: Tensor

    def __init__(self, reference: Tensor, dim: int, persistent: bool = True):
        super().__init__()
        at_least(1, num_queries=len(reference), dim=dim)
        self.num_queries = len(reference)
        self.dim = dim
        self.register_buffer("reference", reference, persistent)

    def forward(self, batch_size: int) -> Queries:
        """The same queries for each of `batch_size` images."""
        return _queries(self.reference, batch_size, self.dim)


class CentredReference(FixedReference):
    """Queries of the original DETR, which has no reference boxes: all lie in the middle.

    Args:
        num_queries: N.
        dim: C.
    """

    def __init__(self, num_queries: int, dim: int):
        super().__init__(torch.zeros(num_queries, 4), dim, persistent=False)


class RandomReference(FixedReference):
    """Reference boxes that stay where `LearnedReference` starts.

    Args:
        num_queries: N.
        dim: C.
        seed: draws the same boxes in all processes, which have seeds of their own.
    """

    def __init__(self, num_queries: int, dim: int, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)
        super().__init__(torch.randn(num_queries, 4, generator=generator, device="cpu"), dim)


class CheckpointReference(FixedReference):
    """Reference boxes that another SAM-DETR has learned.

    The file is read once, here. A checkpoint of this model has the boxes too, and to evaluate it
    without the file `RandomReference` will do.

    Args:
        num_queries: N.
        dim: C.
        path: file or URL of a checkpoint of a model with `LearnedReference` and as many queries.

    Raises:
        FileNotFoundError: if `path` is not a file.
        ValueError: if it holds no learned reference boxes, or another number of them.
    """

    def __init__(self, num_queries: int, dim: int, path: str):
        reference = learned_reference(path)
        if reference.shape != (num_queries, 4):
            raise ValueError(
                f"num_queries is {num_queries}, but {LEARNED} in path={path!r} has the shape "
                f"{tuple(reference.shape)}; expected ({num_queries}, 4)"
            )
        super().__init__(reference, dim)


def learned_reference(path: str) -> Tensor:
    """The (N, 4) reference boxes in a checkpoint, as float32 logits; raises as said above."""
    file = PathManager.get_local_path(path)
    if not os.path.isfile(file):
        raise FileNotFoundError(
            f"path={path!r} is not a file: expected a checkpoint with {LEARNED}, of a trained "
            "SAM-DETR"
        )
    state = read_state_dict(file)
    if LEARNED not in state:
        raise ValueError(
            f"path={path!r} has no {LEARNED}: expected a checkpoint of a SAM-DETR whose "
            "reference boxes were learned"
        )
    return state[LEARNED].float()


def _queries(reference: Tensor, batch_size: int, dim: int) -> Queries:
    content = reference.new_zeros(batch_size, len(reference), dim)
    return Queries(content, reference.expand(batch_size, -1, -1))
