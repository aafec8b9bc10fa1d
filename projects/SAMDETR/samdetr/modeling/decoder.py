"""The transformer decoder: layers as in figure 2 (a), and the prediction heads on top of them.

Paper: sections 4.1 and 4.2.

Shapes: B images, N queries, C channels, K classes, L decoder layers.
Units:  boxes are (cx, cy, w, h), fractions of the unpadded image; a reference is the logit of a box
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torchvision.ops import MLP

from ..structures import FeatureLevel, Predictions, Queries
from .layers import (
    FeedForward,
    Recomputed,
    at_least,
    clones,
    full_precision,
    reset_parameters,
    xavier_matrices_,
)

# References are clamped to the logit of 1e-5 before a box is predicted, as in DETR's descendants.
MAX_REFERENCE = -math.log(1e-5)
PRIOR_LOGIT = -math.log(99)  # of probability 0.01, the focal prior of every class


class DecoderLayer(nn.Module):
    """Self-attention, alignment, cross-attention and feed-forward network, post-norm.

    Args:
        self_attention: among the queries.
        aligner: re-samples the queries from the features (section 4.2).
        cross_attention: from the aligned queries to the features.
        dim: C.
        hidden_dim: channels of the hidden layer of the feed-forward network.
        dropout: rate in the feed-forward network.
    """

    activation: type[nn.Module] = nn.ReLU

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
        self.widths = (dim, hidden_dim, dropout)  # to build a layer like this one
        self.self_attention = self_attention
        self.norm1 = nn.LayerNorm(dim)
        self.aligner = aligner
        self.cross_attention = cross_attention
        self.norm2 = nn.LayerNorm(dim)
        self.feed_forward = FeedForward(dim, hidden_dim, dropout, self.activation)
        self.norm3 = nn.LayerNorm(dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise every matrix by Xavier, as in DETR, except where cross-attention differs."""
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
        """Update the queries from one feature level.

        Args:
            x: (B, N, C) content of the queries.
            position: (B, N, C) their position embeddings.
            boxes: (B, N, 4) their reference boxes.
            level: the features to attend to.
            mask: bias of self-attention, as in `Queries`.

        Returns:
            (B, N, C) new content.
        """
        x = self.norm1(x + self.self_attention(x, position, mask))
        aligned = self.aligner(x, position, boxes, level)
        x = self.norm2(x + self.cross_attention(aligned, level))
        return self.norm3(x + self.feed_forward(x))


class RecomputedDecoderLayer(Recomputed, DecoderLayer):
    """`DecoderLayer` with activation checkpointing."""


class Decoder(nn.Module):
    """Stack of decoder layers, each reading one feature level.

    Args:
        layer: template of a layer; each layer is a newly initialised copy.
        head: template of a prediction head.
        position: from (B, N, 4) reference boxes to query positions.
        levels: index of the feature level that each layer reads, 0 being the finest; its length is
            the number of layers.
        first_layer: template of the first layer, where it differs from the others.
    """

    def __init__(
        self,
        layer: nn.Module,
        head: PredictionHead,
        position: nn.Module,
        levels: Sequence[int],
        first_layer: nn.Module | None = None,
    ):
        super().__init__()
        if not levels:
            raise ValueError("levels is empty, must name a feature level for at least one layer")
        self.levels = list(levels)
        self.num_classes = head.num_classes
        first = layer if first_layer is None else first_layer
        self.layers = nn.ModuleList([*clones(first, 1), *clones(layer, len(self.levels) - 1)])
        self.heads = nn.ModuleList(head.for_layers(len(self.levels)))
        self.position = position

    def forward(self, queries: Queries, pyramid: Sequence[FeatureLevel]) -> Predictions:
        """Return the predictions of all layers."""
        x, reference = queries.content, queries.reference
        outputs = []
        for index, (layer, level) in enumerate(zip(self.layers, self.levels)):
            boxes = reference.sigmoid()
            x = layer(x, self.locate(index, x, boxes), boxes, pyramid[level], queries.mask)
            logits, predicted, reference = self.predict(index, x, reference)
            outputs.append((logits, predicted))
        return Predictions(*(torch.stack(x) for x in zip(*outputs)))

    def locate(self, index: int, x: Tensor, boxes: Tensor) -> Tensor:
        """Position embeddings of the (B, N, C) queries x at the layer of this index."""
        return self.position(boxes)

    def predict(self, index: int, x: Tensor, reference: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Apply the head of a layer, or the head shared by all layers, in full precision."""
        with full_precision(x.device):  # bfloat16 would move boxes by pixels
            return self.heads[index % len(self.heads)](x.to(reference.dtype), reference)

    def scores(self, logits: Tensor) -> Tensor:
        """Turn logits of the last layer into scores, by its head."""
        return cast(PredictionHead, self.heads[-1]).scores(logits)


class PredictionHead(nn.Module):
    """Class logits and a refinement of the reference box; each decoder layer has its own head.

    Args:
        dim: C.
        num_classes: K.
    """

    shared = False  # a head for each layer

    def __init__(self, dim: int, num_classes: int):
        super().__init__()
        at_least(1, dim=dim, num_classes=num_classes)
        self.num_classes = num_classes
        self.classes = nn.Linear(dim, num_classes)
        self.boxes = MLP(dim, [dim, dim, 4])
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start every class at the focal prior and every box at its reference."""
        nn.init.constant_(self.classes.bias, PRIOR_LOGIT)
        last = self.last_box_layer()
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def last_box_layer(self) -> nn.Linear:
        """Return the layer that predicts the four offsets."""
        return [x for x in self.boxes if isinstance(x, nn.Linear)][-1]

    def for_layers(self, depth: int) -> list[nn.Module]:
        """Return this head alone, or a newly initialised one for each of `depth` layers."""
        return [self] if self.shared else [*clones(self, depth)]

    def scores(self, logits: Tensor) -> Tensor:
        """Turn logits into (..., K) scores in [0, 1]."""
        return logits.sigmoid()

    def forward(self, x: Tensor, reference: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Predict from the output of a layer.

        Args:
            x: (B, N, C) content of the queries.
            reference: (B, N, 4).

        Returns:
            (B, N, K) logits, (B, N, 4) boxes, and the (B, N, 4) reference of the next layer, which
            is detached.
        """
        offset = self.boxes(x)
        boxes = (reference.clamp(-MAX_REFERENCE, MAX_REFERENCE) + offset).sigmoid()
        return self.classes(x), boxes, (reference + offset).detach()


class DETRPredictionHead(PredictionHead):
    """Head of the original DETR: shared by all layers, behind a layer norm, without a reference."""

    shared = True

    def __init__(self, dim: int, num_classes: int):
        super().__init__(dim, num_classes)
        self.norm = nn.LayerNorm(dim)

    def reset_parameters(self) -> None:
        """Start every class at the focal prior; the box layers keep torch's initialisation."""
        nn.init.constant_(self.classes.bias, PRIOR_LOGIT)

    def forward(self, x: Tensor, reference: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Same as in the parent, but the reference is ignored and returned unchanged."""
        x = self.norm(x)
        return self.classes(x), self.boxes(x).sigmoid(), reference
