"""Bilinear sampling of feature levels at any places: the kernel of deformable attention.

Shapes: B images, N queries, S tokens of all levels together, M heads, L levels, P points of a level
        and head, D channels of a head.
Units:  locations are (x, y) fractions of a padded feature map.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

try:
    from torch_ms_deform_attn import _C, ms_deform_attn
except ModuleNotFoundError:
    ms_deform_attn = None
except ImportError as error:
    warnings.warn(f"torch-ms-deform-attn is left aside, it does not load: {error}", stacklevel=2)
    ms_deform_attn = None

Backend = Callable[[Tensor, Sequence[tuple[int, int]], Tensor, Tensor], Tensor]


def sample_levels(
    value: Tensor, sizes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """Weighted sums of bilinear samples; what lies outside of a map counts as zero.

    Args:
        value: (B, S, M, D), level after level, row after row.
        sizes: (height, width) of each level.
        locations: (B, N, M, L, P, 2).
        weights: (B, N, M, L, P).

    Returns:
        (B, N, M * D), by the one of BACKENDS that `backend` names.
    """
    return BACKENDS[backend](value, sizes, locations, weights)


def sample_plain(
    value: Tensor, sizes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """`sample_levels` by PyTorch's grid_sample."""
    # One point of all queries at a time: on a CPU faster, forward and backward, than all P points
    # and a sum over them, as such a short axis is summed slowly and its product must be kept.
    grids = (2 * locations - 1).permute(3, 4, 0, 2, 1, 5).flatten(2, 3)  # (L, P, B * M, N, 2)
    weights = weights.permute(3, 4, 0, 2, 1).flatten(2, 3)[:, :, :, None]  # (L, P, B * M, 1, N)
    maps = value.permute(0, 2, 3, 1).flatten(0, 1)  # (B * M, D, S)
    maps = maps.split([height * width for height, width in sizes], dim=-1)
    sums = value.new_zeros(())
    for size, features, grid, weight in zip(sizes, maps, grids.unbind(), weights.unbind()):
        features = features.unflatten(-1, size)
        for places, share in zip(grid.unbind(), weight.unbind()):
            samples = F.grid_sample(features, places[:, None], align_corners=False)
            sums = torch.addcmul(sums, samples[:, :, 0], share)  # (B * M, D, N)
    return sums.unflatten(0, (len(value), -1)).flatten(1, 2).transpose(1, 2)


def sample_compiled(
    value: Tensor, sizes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """`sample_levels` by the kernels of the package torch-ms-deform-attn."""
    shapes = torch.tensor(sizes, device=value.device)
    cells = shapes.prod(1)
    return ms_deform_attn(value, shapes, cells.cumsum(0) - cells, locations, weights)


BACKENDS: dict[str, Backend] = {"plain": sample_plain}
backend = "plain"  # of `sample_levels`
if ms_deform_attn is not None:
    BACKENDS["compiled"] = sample_compiled
    if _C.with_cuda or not torch.cuda.is_available():  # compiled for the devices that are here
        backend = "compiled"
