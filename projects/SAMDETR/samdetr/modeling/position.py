"""Sine embeddings of positions: of feature cells, box centres and keypoints.

Paper: Eq. 6 (keypoints) and figure 2 (a) (box centres); the encoding of the cells is DETR's.

Units: points are (x, y) fractions of the unpadded image.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .layers import at_least_float32


@torch.no_grad()
def sine_embedding(points: Tensor, dim: int, temperature: float = 10000.0) -> Tensor:
    """`sine` as in the released models: positions carry no gradient through their embedding."""
    return sine(points, dim, temperature)


def sine(points: Tensor, dim: int, temperature: float = 10000.0) -> Tensor:
    """Sine embedding of points: `dim / 2` channels for y, then as many for x.

    Args:
        points: (..., 2), any unit in which 1 is the extent of the image.
        dim: channels of the embedding, a multiple of 4.
        temperature: wavelengths go from 1 to almost this times the extent.

    Returns:
        (..., dim) of float32 or more; even channels are sines, odd ones cosines.
    """
    exponent = torch.arange(0, dim // 2, 2, device=points.device, dtype=torch.float64) / (dim // 2)
    # Rounded once from float64, and divided by: where a batch is padded the angles are huge, and
    # one unit in the last place of a frequency moves the logits of the released models by 1e-2.
    frequency = (temperature**exponent).float()
    angle = at_least_float32(points)[..., None] * (2 * math.pi) / frequency  # (..., 2, dim / 4)
    embedding = torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-2)  # (..., 2, dim / 2)
    return embedding.flip(-2).flatten(-2)


def check_sine_dim(dim: int) -> None:
    """Raise ValueError unless a sine embedding can have this many channels."""
    if dim < 4 or dim % 4:
        raise ValueError(f"dim must be a multiple of 4, got {dim}")


class SinePosition(nn.Module):
    """Position encoding of the cells of a feature map.

    Args:
        dim: channels.
        offset: subtracted from the 1-based index of a cell: 0.5 is its centre (SAM-DETR),
            0 its far corner (the original DETR).
        temperature: as in `sine`; 20 in DAB-DETR.
    """

    def __init__(self, dim: int, offset: float = 0.5, temperature: float = 10000.0):
        super().__init__()
        check_sine_dim(dim)
        self.dim = dim
        self.offset = offset
        self.temperature = temperature

    def forward(self, padding: Tensor) -> Tensor:
        """(B, H, W) bool padding mask to the (B, H * W, dim) encoding of its cells."""
        x = self._fraction((~padding).cumsum(2, dtype=torch.float32), 2)
        y = self._fraction((~padding).cumsum(1, dtype=torch.float32), 1)
        points = torch.stack([x, y], dim=-1).flatten(1, 2)
        return sine_embedding(points, self.dim, self.temperature)

    def _fraction(self, index: Tensor, axis: int) -> Tensor:
        """Cell indices (1, 2, …) to fractions of the valid extent along an axis."""
        index = index - self.offset
        last = index.narrow(axis, -1, 1)
        # In float32 and in this order: in a fully padded row or column the quotient is that of
        # the released models, noise of size 5e5, and RoIAlign reads those cells' features.
        return index / ((last + 1e-6) + self.offset)


class MaskedSinePosition(SinePosition):
    """The same with zeros on padded cells, where the encoding of the released models is noise.

    Attention never reads these cells, but RoIAlign does where a box reaches out of the image, and
    the last bit of its arithmetic turns the noise. To train new models with; for none to be read
    at all see `UnpaddedPooler`.
    """

    def forward(self, padding: Tensor) -> Tensor:
        """As in the parent."""
        return super().forward(padding).masked_fill(padding.flatten(1)[..., None], 0.0)


class SineQueryPosition(nn.Module):
    """Query position in SAM-DETR: the sine embedding of the reference box's centre."""

    def __init__(self, dim: int):
        super().__init__()
        check_sine_dim(dim)
        self.dim = dim

    def forward(self, boxes: Tensor) -> Tensor:
        """(B, N, 4) reference boxes to (B, N, dim) query positions."""
        return sine_embedding(boxes[..., :2], self.dim)


class LearnedQueryPosition(nn.Module):
    """Query position in DETR: one learned vector per query, blind to boxes."""

    def __init__(self, num_queries: int, dim: int):
        super().__init__()
        self.embedding = nn.Embedding(num_queries, dim)

    def forward(self, boxes: Tensor) -> Tensor:
        """(B, N, 4) boxes, of which only B counts, to (B, N, dim) query positions."""
        return self.embedding.weight.expand(boxes.shape[0], -1, -1)
