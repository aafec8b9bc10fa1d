"""The transformer decoder: layers as in figure 2 (a), and the prediction heads on them.

Paper: sections 4.1 and 4.2.

Shapes: B images, N queries, C channels, K classes, L decoder layers.
Units:  boxes are (cx, cy, w, h), fractions of the unpadded image; a reference is a box's logit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torchvision.ops import MLP

from ..structures import FeatureLevel, Predictions, Queries
from .arguments import at_least
from .layers import FeedForward, clones, full_precision, reset_parameters, xavier_matrices_

# Predictions start from a reference at most this far from 0, the logit of 1e-5, as in DETR's kin.
MAX_REFERENCE = -math.log(1e-5)
PRIOR_LOGIT = -math.log(99)  # of probability 0.01, where the focal loss starts every class


class DecoderLayer(nn.Module):
    """Self-attention, alignment, cross-attention and feed-forward network, post-norm.

    Args:
        self_attention: among queries.
        aligner: makes queries that fit the features (section 4.2).
        cross_attention: from aligned queries to the features.
        dim: C.
        hidden_dim: channels between the two layers of the feed-forward network.
        dropout: of the feed-forward network.
    """

    def __init__(
        self,
        self_attention: nn.Module,
        aligner: nn.Module,
        cross_attention: nn.Module,
        dim: int,
        hidden_dim: int,
        dropout: float = 0.0,
    ):
        super().__init__()
        if aligner.num_points != cross_attention.num_points:
            raise ValueError(
                f"the aligner gives {aligner.num_points} keypoints per query and the "
                f"cross-attention takes {cross_attention.num_points}; they must be equal"
            )
        self.self_attention = self_attention
        self.norm1 = nn.LayerNorm(dim)
        self.aligner = aligner
        self.cross_attention = cross_attention
        self.norm2 = nn.LayerNorm(dim)
        self.feed_forward = FeedForward(dim, hidden_dim, dropout)
        self.norm3 = nn.LayerNorm(dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier for every matrix, as in DETR; cross-attention has the last word on its own."""
        xavier_matrices_(self)
        reset_parameters(self.cross_attention)

    def forward(
        self,
        x: Tensor,
        position: Tensor,
        boxes: Tensor,
        level: FeatureLevel,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Refine the queries by one feature level.

        Args:
            x: (B, N, C) content of the queries.
            position: (B, N, C) their positions.
            boxes: (B, N, 4) their reference boxes.
            level: the features to read.
            mask: bias of self-attention, as in `Queries`.

        Returns:
            (B, N, C) new content.
        """
        x = self.norm1(x + self.self_attention(x, position, mask))
        aligned = self.aligner(x, position, boxes, level)
        x = self.norm2(x + self.cross_attention(aligned, level))
        return self.norm3(x + self.feed_forward(x))


class PredictionHead(nn.Module):
    """Class logits and a box that refines the reference; each decoder layer has its own.

    Args:
        dim: C.
        num_classes: K.
    """

    def __init__(self, dim: int, num_classes: int):
        super().__init__()
        at_least(1, dim=dim, num_classes=num_classes)
        self.num_classes = num_classes
        self.classes = nn.Linear(dim, num_classes)
        self.boxes = MLP(dim, [dim, dim, 4])
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Every class starts at the focal prior, every box at its reference."""
        nn.init.constant_(self.classes.bias, PRIOR_LOGIT)
        last = [x for x in self.boxes if isinstance(x, nn.Linear)][-1]
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def for_layers(self, depth: int) -> list[nn.Module]:
        """One newly initialised head for each of `depth` layers."""
        return [*clones(self, depth)]

    def scores(self, logits: Tensor) -> Tensor:
        """Logits to (..., K) scores in [0, 1]."""
        return logits.sigmoid()

    def forward(self, x: Tensor, reference: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Predict from the output of a layer.

        Args:
            x: (B, N, C) content of the queries.
            reference: (B, N, 4).

        Returns:
            (B, N, K) logits, (B, N, 4) boxes, and the (B, N, 4) reference of the next layer,
            through which no gradient flows.
        """
        offset = self.boxes(x)
        boxes = (reference.clamp(-MAX_REFERENCE, MAX_REFERENCE) + offset).sigmoid()
        return self.classes(x), boxes, (reference + offset).detach()


class DETRPredictionHead(PredictionHead):
    """The head of the original DETR: one for all layers, behind a norm, boxes without reference."""

    def __init__(self, dim: int, num_classes: int):
        super().__init__(dim, num_classes)
        self.norm = nn.LayerNorm(dim)

    def reset_parameters(self) -> None:
        """Classes start as in the parent; boxes differ from the start, having no reference."""
        nn.init.constant_(self.classes.bias, PRIOR_LOGIT)

    def for_layers(self, depth: int) -> list[nn.Module]:
        """Itself, once for all layers."""
        return [self]

    def forward(self, x: Tensor, reference: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As in the parent; the reference stays what it is."""
        x = self.norm(x)
        return self.classes(x), self.boxes(x).sigmoid(), reference


class Decoder(nn.Module):
    """A stack of decoder layers, each reading one feature level.

    Args:
        layer: template of a layer; each layer is a newly initialised copy.
        head: template of a prediction head.
        position: query position of the (B, N, 4) reference boxes.
        levels: index of the feature level that each layer reads, 0 being the finest; as many as
            there are layers.
    """

    def __init__(
        self, layer: nn.Module, head: PredictionHead, position: nn.Module, levels: Sequence[int]
    ):
        super().__init__()
        if not levels:
            raise ValueError("levels must name a feature level for at least one layer, got none")
        self.levels = list(levels)
        self.num_classes = head.num_classes
        self.layers = nn.ModuleList(clones(layer, len(self.levels)))
        self.heads = nn.ModuleList(head.for_layers(len(self.levels)))
        self.position = position

    def forward(self, queries: Queries, pyramid: Sequence[FeatureLevel]) -> Predictions:
        """Predictions after every layer."""
        x, reference = queries.content, queries.reference
        outputs = []
        for index, (layer, level) in enumerate(zip(self.layers, self.levels)):
            boxes = reference.sigmoid()
            x = layer(x, self.locate(index, x, boxes), boxes, pyramid[level], queries.mask)
            logits, predicted, reference = self.predict(index, x, reference)
            outputs.append((logits, predicted))
        return Predictions(*(torch.stack(x) for x in zip(*outputs)))

    def locate(self, index: int, x: Tensor, boxes: Tensor) -> Tensor:
        """Positions that the layer of an index is told of (B, N, C) queries with these boxes."""
        return self.position(boxes)

    def predict(self, index: int, x: Tensor, reference: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the head of a layer says, in full precision; all layers may share one."""
        with full_precision(x.device):  # bfloat16 moves a box by pixels
            return self.heads[index % len(self.heads)](x.to(reference.dtype), reference)

    def scores(self, logits: Tensor) -> Tensor:
        """Logits of the last layer to scores, as its head reads them."""
        return cast(PredictionHead, self.heads[-1]).scores(logits)
