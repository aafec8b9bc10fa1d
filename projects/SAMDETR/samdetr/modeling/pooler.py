"""Region features of the reference boxes.

Paper: section 4.2, Eq. 2. RoIAlign: https://arxiv.org/abs/1703.06870.

Shapes: B images, N boxes per image, C channels, R x R bins per box, a level of H x W cells.
Units:  boxes are (cx, cy, w, h), fractions of the unpadded image, from a sigmoid: at most the
        image wide and high, but free to reach outside of it.
"""

from __future__ import annotations

import torch
from detectron2.layers import ROIAlign
from torch import Tensor, nn

from ..structures import FeatureLevel
from .boxes import corners


def boxes_in_cells(boxes: Tensor, level: FeatureLevel) -> Tensor:
    """(B, N, 4) boxes to corners (x0, y0, x1, y1) in cells of a level, without gradient."""
    return corners(boxes.detach()) * level.extent.repeat(1, 2)[:, None]


class RoIAlignPooler(nn.Module):
    """RoIAlign by Detectron2's operator, with as many samples per bin as it has cells.

    Args:
        size: R.
    """

    def __init__(self, size: int = 7):
        super().__init__()
        self.size = size
        self.pool = ROIAlign((size, size), spatial_scale=1.0, sampling_ratio=0, aligned=True)

    def forward(self, boxes: Tensor, level: FeatureLevel) -> Tensor:
        """Returns: (B, N, C, R, R), differentiable by the features but not by the boxes."""
        batch, num_boxes = boxes.shape[:2]
        image = torch.arange(batch, device=boxes.device, dtype=boxes.dtype)
        rois = torch.cat(
            [
                image.repeat_interleave(num_boxes)[:, None],
                boxes_in_cells(boxes, level).flatten(0, 1),
            ],
            dim=1,
        )
        # In float32: the operator has no bfloat16 kernel on a CPU.
        return self.pool(level.map.float(), rois).unflatten(0, (batch, num_boxes))


class SeparablePooler(nn.Module):
    """The same RoIAlign as matrix products, for small maps and where it must be deterministic.

    A bin of an axis-aligned box averages a grid of bilinear samples, so its weights are an outer
    product: `out = W_y @ features @ W_x^T` for every box. Backward is matrix products too, where
    the operator scatters with atomic adds.

    Args:
        size: R.
    """

    def __init__(self, size: int = 7):
        super().__init__()
        self.size = size

    def forward(self, boxes: Tensor, level: FeatureLevel) -> Tensor:
        """Returns: (B, N, C, R, R), differentiable by the features but not by the boxes."""
        with torch.autocast(boxes.device.type, enabled=False):  # in float32, as the operator
            return self._pool(boxes_in_cells(boxes, level), level)

    def _pool(self, rois: Tensor, level: FeatureLevel) -> Tensor:
        height, width = level.size
        weight_x = self._weights(rois[..., 0], rois[..., 2], width)  # (B, N, R, W)
        weight_y = self._weights(rois[..., 1], rois[..., 3], height)  # (B, N, R, H)
        features = level.tokens.float().unflatten(1, (height, -1)).flatten(2)  # (B, H, W * C)
        rows = weight_y.flatten(1, 2) @ features  # (B, N * R, W * C)
        rows = rows.view(*weight_y.shape[:3], width, -1)  # (B, N, R, W, C)
        return (weight_x[:, :, None] @ rows).permute(0, 1, 4, 2, 3)  # from (B, N, R, R, C)

    def _weights(self, start: Tensor, end: Tensor, cells: int) -> Tensor:
        """Weights of the cells of one axis in each bin of intervals [start, end], (…, R, cells)."""
        bin_size = (end - start)[..., None, None] / self.size  # (…, 1, 1)
        samples = bin_size.ceil()  # of a bin, as the operator's adaptive sampling has it
        # No box is larger than the image but for rounding: a bound that asks nothing of the device.
        index = torch.arange(cells // self.size + 1, device=start.device)
        bins = torch.arange(self.size, device=start.device)[:, None]
        offset = bins + (index + 0.5) / samples.clamp(min=1)  # (…, R, samples) in bins
        position = start[..., None, None] - 0.5 + offset * bin_size
        inside = (index < samples) & (position >= -1) & (position <= cells)
        position = position.clamp(0, cells - 1)
        grid = torch.arange(cells, device=start.device)
        # Bilinear weights of the cells in every sample: (…, R, samples, cells).
        hat = (1 - (position[..., None] - grid).abs()).clamp(min=0)
        return (hat * (inside / samples.clamp(min=1))[..., None]).sum(-2)
