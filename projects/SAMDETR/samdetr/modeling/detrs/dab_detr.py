"""DAB-DETR: queries are boxes that every layer moves, and whose size shapes the attention.

A row of tables 1 and 2; with `denoising.py` it is DN-DETR. DAB-DETR:
https://arxiv.org/abs/2201.12329, section 4.

Shapes: B images, N queries, S tokens, C channels.
Units:  boxes are (cx, cy, w, h), fractions of the unpadded image; a reference is the logit of a box
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import MLP

from ...structures import FeatureLevel, Queries
from ..decoder import DecoderLayer
from ..encoder import Encoder, EncoderLayer
from ..layers import Recomputed, at_least, at_least_float32, xavier_matrices_
from ..position import check_sine_dim, sine
from ..queries import LearnedReference
from .conditional_detr import AnchoredPredictionHead, ConditionalDecoder

# Lower bound of the box size that an embedding is divided by, a fraction of the image: float16
# cannot hold the quotient for the 1e-5 of the smallest initial boxes, and boxes may shrink further.
MIN_SIZE = 1e-3


class DABEncoderLayer(EncoderLayer):
    """Encoder layer with PReLU."""

    activation = nn.PReLU


class DABDecoderLayer(DecoderLayer):
    """Decoder layer with PReLU."""

    activation = nn.PReLU


class RecomputedDABEncoderLayer(Recomputed, DABEncoderLayer):
    """`DABEncoderLayer` with activation checkpointing."""


class RecomputedDABDecoderLayer(Recomputed, DABDecoderLayer):
    """`DABDecoderLayer` with activation checkpointing."""


class DABEncoder(Encoder):
    """Encoder in which the content of a token scales the channels of its position.

    Args:
        layer, num_layers: as in `Encoder`.
        dim: C.
    """

    def __init__(self, layer: nn.Module, num_layers: int, dim: int):
        super().__init__(layer, num_layers)
        self.scale = MLP(dim, [dim, dim])
        xavier_matrices_(self.scale)

    def locate(self, x: Tensor, position: Tensor) -> Tensor:
        """Scaled positions of the tokens x; all are (B, S, C)."""
        return position * self.scale(x)


class PatternReference(LearnedReference):
    """A query for each pair of a learned pattern, its content, and a learned reference box.

    Queries of a pattern are adjacent. Patterns are those of Anchor DETR: https://arxiv.org/abs/2109.07107

    Args:
        num_queries: N, a multiple of `num_patterns`.
        dim: C.
        num_patterns: queries per reference box.

    Raises:
        ValueError: if `num_queries` is not a multiple of `num_patterns`.
    """

    def __init__(self, num_queries: int, dim: int, num_patterns: int):
        at_least(1, num_patterns=num_patterns)
        if num_queries % num_patterns:
            raise ValueError(f"num_queries is {num_queries}, must be a multiple of {num_patterns}")
        super().__init__(num_queries // num_patterns, dim)
        self.num_queries = num_queries
        self.patterns = nn.Embedding(num_patterns, dim)  # normal(0, 1)

    def logits(self) -> Tensor:
        return self.reference.weight.repeat(self.patterns.num_embeddings, 1)

    def forward(self, pyramid: Sequence[FeatureLevel]) -> Queries:
        """Same as in the parent, with patterns as content."""
        queries = super().forward(pyramid)
        patterns = self.patterns.weight.repeat_interleave(self.reference.num_embeddings, dim=0)
        return queries._replace(content=queries.content + patterns)


class DABQueryPosition(nn.Module):
    """Positions from all four numbers of the reference box (sections 4.2 and 4.4).

    Args:
        dim: C.
    """

    def __init__(self, dim: int):
        super().__init__()
        check_sine_dim(dim)
        self.dim = dim
        self.project = MLP(2 * dim, [dim, dim])
        self.size = MLP(dim, [dim, 2])
        xavier_matrices_(self)

    def anchors(self, reference: Tensor) -> Tensor:
        """Return the (B, N, 4) references themselves."""
        return reference

    def forward(self, boxes: Tensor) -> Tensor:
        """(B, N, 4) reference boxes to (B, N, C) positions."""
        # `sine` embeds the second coordinate first: y, x and, with the size flipped, w, h.
        pairs = torch.stack([boxes[..., :2], boxes[..., 2:].flip(-1)], dim=-2)
        return self.project(sine(pairs, self.dim).flatten(-2))

    def target(self, x: Tensor, boxes: Tensor) -> Tensor:
        """Sine embedding, (B, N, C), of the box centre, each axis divided by the relative size.

        Where a box is wider than its content predicts, attention falls off more slowly along x.
        """
        size = boxes[..., 2:].clamp(min=MIN_SIZE)
        ratio = at_least_float32(self.size(x)).sigmoid() / size  # (B, N, 2)
        embedding = sine(boxes[..., :2], self.dim).unflatten(-1, (2, -1))  # of y, then of x
        return (embedding * ratio.flip(-1)[..., None]).flatten(-2)


class DABPredictionHead(AnchoredPredictionHead):
    """One head for all layers that also moves the reference."""

    def forward(self, x: Tensor, reference: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Same as in the parent, with a new reference.

        It is not the predicted box: as in the released models it is predicted without the norm.
        """
        logits, boxes, reference = super().forward(x, reference)
        return logits, boxes, reference + self.boxes(x)


class DABDecoder(ConditionalDecoder):
    """Decoder for boxes that move, with the gradients of the released models.

    The gradient reaches a reference through the position of the first layer and through the boxes
    predicted from it; the latter passes to the layer that moved the reference last, and no further.
    """

    def locate(self, index: int, x: Tensor, boxes: Tensor) -> Tensor:
        """Positions and targets, (B, N, 2 C)."""
        return super().locate(index, x, boxes.detach() if index > 0 else boxes)

    def predict(self, index: int, x: Tensor, reference: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Apply the head of a layer."""
        logits, boxes, moved = super().predict(index, x, reference)
        earlier = reference - reference.detach()  # zeros that carry only the gradient
        return logits, boxes, moved - earlier if index > 0 else moved
