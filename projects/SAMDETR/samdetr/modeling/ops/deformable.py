"""Bilinear sampling of feature levels at any places: the kernel of deformable attention.

Shapes: B images, N queries, S tokens of all levels together, M heads, L levels, P points of a level
        and head, D channels of a head.
Units:  locations are (x, y) fractions of a padded feature map.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..layers import eager_on_cpu, precision
from .deformable_cpu import BagSampling

try:
    from torch_ms_deform_attn import _C, ms_deform_attn
except ModuleNotFoundError:
    ms_deform_attn = None
except ImportError as error:
    warnings.warn(f"torch-ms-deform-attn is left aside, it does not load: {error}", stacklevel=2)
    ms_deform_attn = None

try:
    from .deformable_triton import sample_triton
except ImportError:  # torch for CUDA brings Triton, others need not
    sample_triton = None  # type: ignore[assignment]

Backend = Callable[[Tensor, Sequence[tuple[int, int]], Tensor, Tensor], Tensor]


def sample_levels(
    value: Tensor, sizes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """Weighted sums of bilinear samples; what lies outside of a map counts as zero.

    Args:
        value: (B, S, M, D), level after level, row after row.
        sizes: (height, width) of each level.
        locations: (B, N, M, L, P, 2), in the precision of the values or a higher one.
        weights: (B, N, M, L, P), in that of the locations.

    Returns:
        (B, N, M * D), in the precision of the values, by the one of BACKENDS that `backend` names.
    """
    return BACKENDS[backend](value, sizes, locations, weights)


def sample_plain(
    value: Tensor, sizes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """`sample_levels` by operators of PyTorch: those that suit the device."""
    if not eager_on_cpu(value.device):  # many small operators cost more than the samples
        return sample_grid(value, sizes, locations, weights)
    exact = precision(weights.dtype)
    out = BagSampling.apply(value.to(exact), sizes, locations.to(exact), weights.to(exact))
    return out.to(value.dtype)


def sample_grid(
    value: Tensor, sizes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """`sample_levels` by PyTorch's grid_sample, once for each level."""
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


def sample_compiled(
    value: Tensor, sizes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """`sample_levels` by the kernels of the package torch-ms-deform-attn."""
    shapes = torch.tensor(sizes).to(value.device, non_blocking=True)
    cells = shapes.prod(1)
    starts = cells.cumsum(0) - cells
    return ms_deform_attn(value.to(weights), shapes, starts, locations, weights).to(value.dtype)


def sample_on_gpu(
    value: Tensor, sizes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """`sample_levels` by Triton on a GPU, elsewhere as `sample_plain`.

    Triton adds gradients up in any order: where that is forbidden, PyTorch has the word.
    """
    exact = torch.are_deterministic_algorithms_enabled()
    sample = sample_triton if value.is_cuda and not exact else sample_plain
    return sample(value, sizes, locations, weights)


class ShortSoftmax(torch.autograd.Function):
    """Softmax over few channels; on a CPU torch's own kernel takes six times as long for 12."""

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
        slope = gradient * y
        return slope.addcmul_(y, slope.sum(-1, keepdim=True), value=-1)


def softmax(x: Tensor) -> Tensor:
    """Softmax over a short last dimension."""
    applied: Tensor = ShortSoftmax.apply(x) if eager_on_cpu(x.device) else x.softmax(-1)
    return applied


BACKENDS: dict[str, Backend] = {"plain": sample_plain, "grid": sample_grid}
backend = "plain"  # of `sample_levels`
if sample_triton is not None:
    BACKENDS["triton"] = sample_on_gpu
    compilers = (os.environ.get("CC", ""), "cc", "gcc", "clang")  # Triton needs one to launch
    if torch.cuda.is_available() and any(map(shutil.which, compilers)):
        backend = "triton"
if ms_deform_attn is not None:
    BACKENDS["compiled"] = sample_compiled
    if _C.with_cuda or not torch.cuda.is_available():  # compiled for the devices that are here
        backend = "compiled"
