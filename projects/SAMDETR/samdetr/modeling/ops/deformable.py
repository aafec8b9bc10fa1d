"""Multi-scale deformable sampling: weighted sums of bilinear samples of several feature levels.

Paper: section 4.3. Deformable DETR: https://arxiv.org/abs/2010.04159.

`sample_levels` has three kernels: `grid_sample` per level (the plain twin), embedding bags on a CPU
(`deformable_cpu.py`) and Triton on a GPU (`deformable_triton.py`).

Shapes: B images, N queries, S tokens of all levels together, M heads, L levels, P points of a level
        and head, D channels of a head.
Units:  locations are (x, y) fractions of a padded feature map.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..layers import eager_on_cpu, precision
from . import selected
from .deformable_cpu import EmbeddingBagSampling, Sizes

HAS_TRITON = find_spec("triton") is not None  # comes with torch for CUDA


def sample_levels(value: Tensor, sizes: Sizes, locations: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of bilinear samples, with zeros around the maps.

    Args:
        value: (B, S, M, D), level after level, row after row.
        sizes: (height, width) of each level.
        locations: (B, N, M, L, P, 2), in the dtype of the values or a more precise one.
        weights: (B, N, M, L, P), in the dtype of the locations.

    Returns:
        (B, N, M * D), in the dtype of the values.
    """
    name = selected("deformable", fastest(value.device))
    return BACKENDS[name](value, sizes, locations, weights)


def fastest(device: torch.device) -> str:
    """Name of the fastest kernel for a device; Triton's is not deterministic."""
    if eager_on_cpu(device):
        return "embedding_bag"
    deterministic = torch.are_deterministic_algorithms_enabled()
    return "triton" if device.type == "cuda" and HAS_TRITON and not deterministic else "grid"


def sample_by_grid(value: Tensor, sizes: Sizes, locations: Tensor, weights: Tensor) -> Tensor:
    """`sample_levels` by PyTorch's grid_sample, once for each level: the plain twin."""
    grids = (2 * locations - 1).transpose(1, 2).flatten(0, 1)  # (B * M, N, L, P, 2)
    weights = weights.transpose(1, 2).flatten(0, 1)[:, None]  # (B * M, 1, N, L, P)
    maps = value.to(weights).permute(0, 2, 3, 1).flatten(0, 1)  # (B * M, D, S)
    sums = []
    for size, features, grid, weight in zip(
        sizes,
        maps.split([height * width for height, width in sizes], dim=-1),
        grids.unbind(2),
        weights.unbind(3),
    ):
        samples = F.grid_sample(features.unflatten(-1, size), grid, align_corners=False)
        sums.append((samples * weight).sum(-1))  # (B * M, D, N)
    out = sum(sums[1:], sums[0]).unflatten(0, (value.shape[0], -1))
    return out.flatten(1, 2).transpose(1, 2).to(value.dtype)


def sample_by_bags(value: Tensor, sizes: Sizes, locations: Tensor, weights: Tensor) -> Tensor:
    """`sample_levels` by embedding bags, on a CPU."""
    exact = precision(weights.dtype)
    out = EmbeddingBagSampling.apply(value.to(exact), sizes, locations.to(exact), weights.to(exact))
    return out.to(value.dtype)


def sample_by_triton(value: Tensor, sizes: Sizes, locations: Tensor, weights: Tensor) -> Tensor:
    """`sample_levels` by Triton on a GPU, which needs a C compiler."""
    from .deformable_triton import TritonSampling  # Triton is optional

    exact = precision(weights.dtype)
    return TritonSampling.apply(
        value.contiguous(), sizes, locations.to(exact).contiguous(), weights.to(exact).contiguous()
    )


BACKENDS: dict[str, Callable[..., Tensor]] = {
    "embedding_bag": sample_by_bags,
    "triton": sample_by_triton,
    "grid": sample_by_grid,
}


class ShortSoftmax(torch.autograd.Function):
    """Softmax over a short axis; torch's own takes six times as long for 12 channels on a CPU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Softmax over the last dimension."""
        y = (x - x.amax(-1, keepdim=True)).exp_()
        y.div_(y.sum(-1, keepdim=True))
        ctx.save_for_backward(y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Gradient of the input."""
        (y,) = ctx.saved_tensors
        of_x = gradient * y
        return of_x.addcmul_(y, of_x.sum(-1, keepdim=True), value=-1)


def softmax(x: Tensor) -> Tensor:
    """Softmax over the last dimension, which is short."""
    applied: Tensor = ShortSoftmax.apply(x) if eager_on_cpu(x.device) else x.softmax(-1)
    return applied
