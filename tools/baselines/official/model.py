"""The model: images in, losses or detections out, as Detectron2 has it.

Shapes: B images, N queries, C channels, K classes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from samdetr.modeling import SAMDETR

from ..contract import Baseline, Target
from .backbone import Backbone, Body
from .decoder import MLP, Decoder, DecoderLayer, Gaussian, Level, NoGaussian
from .encoder import DeformableEncoder, DeformableLayer, DenseEncoder, DenseLayer
from .losses import WEIGHTS, Criterion


class Sizes(NamedTuple):
    """Everything in which official models, and small ones like them, differ."""

    features: dict[str, int]  # channels of the backbone's maps by torchvision's names, fine first
    dim: int  # C
    heads: int  # also the number of keypoints
    norm: bool  # after the input projections
    sampled: int  # points that a head of the deformable encoder reads on a level; 0: it is dense
    encoder_layers: int
    encoder_hidden: int
    decoder_hidden: int
    reduced: int  # channels of a region in the keypoint head
    point_hidden: tuple[int, int, int]  # channels of the head's hidden layers
    smca: bool
    levels: list[int]  # that the decoder layers read, 0 being the finest
    num_queries: int  # N
    num_classes: int  # K


class Transformer(nn.Module):
    """Encoder and decoder on one scale.

    Args:
        sizes: of the model.
        bbox_embed: box head of every decoder layer.
    """

    def __init__(self, sizes: Sizes, bbox_embed: nn.ModuleList):
        super().__init__()
        self.encoder = self.make_encoder(sizes)
        layers = [
            DecoderLayer(
                sizes.dim,
                sizes.heads,
                sizes.decoder_hidden,
                sizes.reduced,
                sizes.point_hidden,
                Gaussian() if sizes.smca else NoGaussian(),
            )
            for _ in sizes.levels
        ]
        self.decoder = Decoder(layers, bbox_embed, sizes.levels)

    def make_encoder(self, sizes: Sizes) -> nn.Module:
        """The encoder of this kind of model."""
        return DenseEncoder(
            [
                DenseLayer(sizes.dim, sizes.heads, sizes.encoder_hidden)
                for _ in range(sizes.encoder_layers)
            ]
        )

    def forward(
        self, maps: list[Tensor], masks: list[Tensor], positions: list[Tensor], reference: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Encode and decode.

        Args:
            maps, positions: (B, C, H, W) per level, fine to coarse.
            masks: (B, H, W) bool per level, True on padding.
            reference: (N, 4) logits of the first boxes.

        Returns:
            As `Decoder`.
        """
        memories = self.encoder(maps, masks, positions)
        pyramid = [
            Level(memory, position.flatten(2).permute(2, 0, 1), mask)
            for memory, position, mask in zip(memories, positions, masks)
        ]
        return self.decoder(reference, pyramid)


class MultiScaleTransformer(Transformer):
    """The same on several scales, which a learned embedding tells apart."""

    def __init__(self, sizes: Sizes, bbox_embed: nn.ModuleList):
        super().__init__(sizes, bbox_embed)
        self.level_embed = nn.Parameter(torch.randn(len(sizes.features), sizes.dim))

    def make_encoder(self, sizes: Sizes) -> nn.Module:
        """As in the parent."""
        levels, hidden = len(sizes.features), sizes.encoder_hidden
        return DeformableEncoder(
            [
                DeformableLayer(sizes.dim, levels, sizes.heads, sizes.sampled, hidden)
                for _ in range(sizes.encoder_layers)
            ]
        )

    def forward(
        self, maps: list[Tensor], masks: list[Tensor], positions: list[Tensor], reference: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As in the parent."""
        positions = [x + y[:, None, None] for x, y in zip(positions, self.level_embed)]
        return super().forward(maps, masks, positions, reference)


class OfficialSAMDETR(Baseline):
    """The whole model; it initialises nothing on purpose, weights are loaded into it.

    Args:
        model: a `SAMDETR`, of which only the layout of Detectron2's ResNet and what the parent
            says are taken.
        sizes: of the rest.
    """

    def __init__(self, model: SAMDETR, sizes: Sizes):
        super().__init__(model)
        dim, depth = sizes.dim, len(sizes.levels)
        body = Body(model.backbone, list(sizes.features))
        self.backbone = nn.ModuleList([Backbone(body, dim)])
        norms = [nn.GroupNorm(32, dim) for _ in sizes.features] if sizes.norm else []
        self.input_proj = nn.ModuleList(
            [
                nn.Sequential(nn.Conv2d(channels, dim, kernel_size=1), *norms[i : i + 1])
                for i, channels in enumerate(sizes.features.values())
            ]
        )
        self.query_embed = nn.Embedding(sizes.num_queries, 4)
        self.class_embed = nn.ModuleList([nn.Linear(dim, sizes.num_classes) for _ in range(depth)])
        self.bbox_embed = nn.ModuleList([MLP(dim, dim, dim, 4) for _ in range(depth)])
        kind = MultiScaleTransformer if sizes.sampled else Transformer
        self.transformer = kind(sizes, self.bbox_embed)
        self.criterion = Criterion()

    def losses(self, images: Tensor, mask: Tensor, targets: list[Target]) -> dict[str, Tensor]:
        """As in the parent."""
        losses = self.criterion(self.predict(images, mask), targets)
        weights = {name: WEIGHTS.get(name.rstrip("_0123456789")) for name in losses}
        return {name: losses[name] * x for name, x in weights.items() if x is not None}

    def detect(self, images: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """As in the parent, from the last layer, though all layers predict."""
        last = self.predict(images, mask)[-1]
        return last["logits"].sigmoid(), last["boxes"]

    def predict(self, images: Tensor, mask: Tensor) -> list[dict[str, Tensor]]:
        """(B, N, K) `logits` and (B, N, 4) `boxes` of every layer."""
        maps, masks, positions = self.backbone[0](images, mask)
        maps = [project(x) for project, x in zip(self.input_proj, maps)]
        reference = self.query_embed.weight
        states, given = self.transformer(maps, masks, positions, reference)
        layers = []
        for index, (x, boxes) in enumerate(zip(states, given)):
            offset = self.bbox_embed[index](x)  # a second time: the decoder has refined with it
            boxes = (offset + inverse_sigmoid(boxes)).sigmoid()
            layers.append({"logits": self.class_embed[index](x), "boxes": boxes})
        return layers


def inverse_sigmoid(x: Tensor, eps: float = 1e-5) -> Tensor:
    """Logits, at most that of `eps` from 0."""
    return (x.clamp(min=eps) / (1 - x).clamp(min=eps)).log()
