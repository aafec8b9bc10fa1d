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
    """`sine` without gradient, as for all positions of the released models."""
    return sine(points, dim, temperature)


def sine(points: Tensor, dim: int, temperature: float = 10000.0) -> Tensor:
    """Sine embedding of points (Eq. 6): `dim / 2` channels for y, then as many for x.

    Args:
        points: (..., 2), any unit in which 1 is the extent of the image.
        dim: channels of the embedding, a multiple of 4.
        temperature: wavelengths range from 1 to almost this many extents.

    Returns:
        (..., dim) in at least float32; even channels are sines, odd ones cosines.
    """
    exponent = torch.arange(0, dim // 2, 2, device=points.device, dtype=torch.float64) / (dim // 2)
    # Rounded once from float64, and a divisor: angles of padded cells are huge, and one unit in the
    # last place of a frequency changes the logits of the released models by 1e-2.
    frequency = (temperature**exponent).float()
    angle = at_least_float32(points)[..., None] * (2 * math.pi) / frequency  # (..., 2, dim / 4)
    embedding = torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-2)  # (..., 2, dim / 2)
    return embedding.flip(-2).flatten(-2)


def check_sine_dim(dim: int) -> None:
    """Raise ValueError unless `dim` is a positive multiple of 4, as a sine embedding needs."""
    if dim < 4 or dim % 4:
        raise ValueError(f"dim is {dim}, must be a multiple of 4")


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
        """(B, H, W) bool padding mask to (B, H * W, dim) position encodings."""
        x = self._fraction((~padding).cumsum(2, dtype=torch.float32), 2)
        y = self._fraction((~padding).cumsum(1, dtype=torch.float32), 1)
        points = torch.stack([x, y], dim=-1).flatten(1, 2)
        return sine_embedding(points, self.dim, self.temperature)

    def _fraction(self, index: Tensor, axis: int) -> Tensor:
        """Turn cell indices (1, 2, …) into fractions of the valid extent along an axis."""
        index = index - self.offset
        last = index.narrow(axis, -1, 1)
        # In float32 and in this order: on fully padded rows and columns the quotient is then the
        # same noise of size 5e5 as in the released models, whose RoIAlign reads those cells.
        return index / ((last + 1e-6) + self.offset)


class MaskedSinePosition(SinePosition):
    """`SinePosition` with zeros on padded cells, where that of the released models is noise.

    Attention masks these cells, but RoIAlign reads them where a box extends beyond the image, and
    rounding changes the noise. For training new models; `UnpaddedPooler` does not read padded cells
    at all.
    """

    def forward(self, padding: Tensor) -> Tensor:
        """Same as in the parent."""
        return super().forward(padding).masked_fill(padding.flatten(1)[..., None], 0.0)


class SineQueryPosition(nn.Module):
    """Query position of SAM-DETR: the sine embedding of the reference box's centre."""

    def __init__(self, dim: int):
        super().__init__()
        check_sine_dim(dim)
        self.dim = dim

    def forward(self, boxes: Tensor) -> Tensor:
        """(B, N, 4) reference boxes to (B, N, dim) query positions."""
        return sine_embedding(boxes[..., :2], self.dim)


class LearnedQueryPosition(nn.Module):
    """Query position of DETR: one learned vector per query, independent of the boxes."""

    def __init__(self, num_queries: int, dim: int):
        super().__init__()
        self.embedding = nn.Embedding(num_queries, dim)

    def forward(self, boxes: Tensor) -> Tensor:
        """Expand the (N, dim) embedding to the batch size of the (B, N, 4) boxes."""
        return self.embedding.weight.expand(boxes.shape[0], -1, -1)
