"""Input projection: from the maps of a backbone to the feature levels of the transformer.

Paper: section 3 (one level) and section 4.3 (several levels).

Shapes: B images, S = H * W cells of a level, C channels of the transformer.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from detectron2.layers import get_norm
from torch import Tensor, nn

from ..structures import FeatureLevel
from .layers import at_least, precision


class ChannelMapper(nn.Module):
    """A 1x1 convolution per backbone map, with or without normalisation.

    The official models have GroupNorm here, except single-scale ones trained for 50 epochs.

    Args:
        in_channels: channels of each backbone map to read, by name, from fine to coarse.
        dim: C.
        norm: normalisation by Detectron2's name, such as "GN"; "" for none.
        position: position encoding of a level, from its padding mask.
    """

    def __init__(self, in_channels: Mapping[str, int], dim: int, position: nn.Module, norm: str):
        super().__init__()
        at_least(1, dim=dim, **{"the number of in_channels": len(in_channels)})
        self.in_channels = dict(in_channels)
        self.position = position
        convolutions = self.convolutions(dim)
        self.sources = [name for name, _ in convolutions]
        self.projections = nn.ModuleList()
        for _, convolution in convolutions:
            layers = [convolution, get_norm(norm, dim)]
            self.projections.append(nn.Sequential(*[x for x in layers if x is not None]))

    def convolutions(self, dim: int) -> list[tuple[str, nn.Conv2d]]:
        """Return the backbone map and the convolution of each level, from fine to coarse."""
        return [
            (name, nn.Conv2d(channels, dim, kernel_size=1))
            for name, channels in self.in_channels.items()
        ]

    def forward(self, features: Mapping[str, Tensor], padding: Tensor) -> list[FeatureLevel]:
        """Project the maps and mark the padded cells.

        Args:
            features: (B, channels, H, W) backbone maps by name.
            padding: (B, height, width) bool, True on pixels outside the image.

        Returns:
            The levels, from fine to coarse.
        """
        return [
            self.level(projection(features[name]), padding)
            for name, projection in zip(self.sources, self.projections)
        ]

    def level(self, x: Tensor, padding: Tensor) -> FeatureLevel:
        """Turn a (B, C, H, W) map and the padding of the images into a feature level."""
        size = (x.shape[-2], x.shape[-1])
        padded = F.interpolate(padding[:, None].float(), size=size)[:, 0].bool()  # nearest pixel
        tokens = x.flatten(2).transpose(1, 2)
        position = self.position(padded).to(precision(x.dtype))
        return FeatureLevel(tokens, position, padded.flatten(1), size)


class MultiScaleMapper(ChannelMapper):
    """`ChannelMapper` for several levels, with a learned embedding per level in their positions.

    Paper: section 4.3.
    """

    def __init__(self, in_channels: Mapping[str, int], dim: int, position: nn.Module, norm: str):
        super().__init__(in_channels, dim, position, norm)
        self.level_embedding = nn.Embedding(len(self.projections), dim)  # normal(0, 1)

    def forward(self, features: Mapping[str, Tensor], padding: Tensor) -> list[FeatureLevel]:
        """Same as in the parent."""
        levels = super().forward(features, padding)
        return [
            level._replace(position=level.position + embedding)
            for level, embedding in zip(levels, self.level_embedding.weight)
        ]
