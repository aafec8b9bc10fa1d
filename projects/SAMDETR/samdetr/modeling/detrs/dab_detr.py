"""DAB-DETR: queries are boxes that every layer moves, and their size shapes the attention.

A row of tables 1 and 2; with `denoising.py` it is DN-DETR. DAB-DETR:
https://arxiv.org/abs/2201.12329, section 4.

Shapes: B images, N queries, S tokens, C channels.
Units:  boxes are (cx, cy, w, h), fractions of the unpadded image; a reference is a box's logit.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.ops import MLP

from ..decoder import DecoderLayer
from ..encoder import Encoder, EncoderLayer
from ..layers import at_least_float32, xavier_matrices_
from ..position import check_sine_dim, sine
from .anchored import AnchoredPredictionHead
from .conditional_detr import ConditionalDecoder

# Of a box that a position is divided by, a fraction of the image: float16 cannot hold the quotient
# with the 1e-5 that boxes of no size start from, and boxes that move get smaller still.
MIN_SIZE = 1e-3


class PReLUFeedForward(MLP):
    """The two-layer feed-forward network with a learned slope, and with DETR's two dropouts."""

    def __init__(self, dim: int, hidden_dim: int, dropout: float = 0.0):
        super().__init__(dim, [hidden_dim, dim], activation_layer=nn.PReLU, dropout=dropout)


class DABEncoderLayer(EncoderLayer):
    """An encoder layer with PReLU."""

    def __init__(self, attention: nn.Module, dim: int, hidden_dim: int, dropout: float = 0.0):
        super().__init__(attention, dim, hidden_dim, dropout)
        self.feed_forward = PReLUFeedForward(dim, hidden_dim, dropout)
        self.reset_parameters()


class DABDecoderLayer(DecoderLayer):
    """A decoder layer with PReLU."""

    def __init__(
        self,
        self_attention: nn.Module,
        aligner: nn.Module,
        cross_attention: nn.Module,
        dim: int,
        hidden_dim: int,
        dropout: float = 0.0,
    ):
        super().__init__(self_attention, aligner, cross_attention, dim, hidden_dim, dropout)
        self.feed_forward = PReLUFeedForward(dim, hidden_dim, dropout)
        self.reset_parameters()


class DABEncoder(Encoder):
    """An encoder in which the content of a token scales the channels of its position.

    Args:
        layer, num_layers: as in the parent.
        dim: C.
    """

    def __init__(self, layer: nn.Module, num_layers: int, dim: int):
        super().__init__(layer, num_layers)
        self.scale = MLP(dim, [dim, dim])
        xavier_matrices_(self.scale)

    def locate(self, x: Tensor, position: Tensor) -> Tensor:
        """As in the parent."""
        return position * self.scale(x)


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
        """The (B, N, 4) references themselves."""
        return reference

    def forward(self, boxes: Tensor) -> Tensor:
        """(B, N, 4) reference boxes to (B, N, C) positions."""
        # Sine embeddings go from the second coordinate to the first: y, x and, turned, w, h.
        pairs = torch.stack([boxes[..., :2], boxes[..., 2:].flip(-1)], dim=-2)
        return self.project(sine(pairs, self.dim).flatten(-2))

    def target(self, x: Tensor, boxes: Tensor) -> Tensor:
        """Sine embedding, (B, N, C), of the box centre, each axis over the relative size there.

        Where the box is wider than the content expects, attention falls off more slowly along x.
        """
        size = boxes[..., 2:].clamp(min=MIN_SIZE)
        ratio = at_least_float32(self.size(x)).sigmoid() / size  # (B, N, 2)
        embedding = sine(boxes[..., :2], self.dim).unflatten(-1, (2, -1))  # of y, then of x
        return (embedding * ratio.flip(-1)[..., None]).flatten(-2)


class DABPredictionHead(AnchoredPredictionHead):
    """One head for all layers that also moves the reference."""

    def forward(self, x: Tensor, reference: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As in the parent.

        The next reference is not the predicted box: as in the released models it leaves the norm
        out.
        """
        logits, boxes, reference = super().forward(x, reference)
        return logits, boxes, reference + self.boxes(x)


class DABDecoder(ConditionalDecoder):
    """A decoder for boxes that move, with the gradients of the released models.

    References get one where they are positions of the first layer and where boxes start from them;
    the latter goes back to what moved them last, and no further.
    """

    def locate(self, index: int, x: Tensor, boxes: Tensor) -> Tensor:
        """As in the parent."""
        return super().locate(index, x, boxes.detach() if index > 0 else boxes)

    def predict(self, index: int, x: Tensor, reference: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As in the parent."""
        logits, boxes, moved = super().predict(index, x, reference)
        earlier = reference - reference.detach()  # zeros that only carry the gradient
        return logits, boxes, moved - earlier if index > 0 else moved
