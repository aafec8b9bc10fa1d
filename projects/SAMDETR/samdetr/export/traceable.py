"""Modules and kernels that can be traced for images of all sizes.

Kernels for the CPU in `modeling/ops/` build lists that depend on tensor values. Here they are
replaced by matrix products and standard operators, with the same results up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy

import torch
from detectron2.layers import Conv2d
from torch import Tensor, nn

from ..modeling import (
    SAMDETR,
    FastestPooler,
    GatherPooler,
    NoDenoising,
    RoIAlignPooler,
    SeparablePooler,
)
from ..modeling.backbone import FoldedConv2d, scaled
from ..modeling.ops import attend as kernels
from ..modeling.ops import deformable as sampling
from ..modeling.ops.roi_align import bin_weights
from ..structures import FeatureLevel


class TraceablePooler(SeparablePooler):
    """RoIAlign as matrix products, on maps of any size.

    Room for one more sample than needed keeps dimensions from having length 1 in the trace, which
    torch.export would then assume for all inputs.
    """

    def weights(self, boxes: Tensor, level: FeatureLevel) -> tuple[Tensor, Tensor]:
        """Same as in the parent."""
        return bin_weights(boxes, level, self.size, spare=1)


@torch.no_grad()
def fold(conv: FoldedConv2d) -> Conv2d:
    """Fold the frozen norm of a convolution into its weights."""
    scale, bias = conv.scale_and_bias()
    plain = Conv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        conv.stride,
        conv.padding,
        conv.dilation,
        conv.groups,
        activation=conv.activation,
        device=conv.weight.device,
    )
    plain.weight.copy_(scaled(conv.weight, scale))
    plain.bias.copy_(bias)
    return plain


def as_products(pooler: FastestPooler | GatherPooler | RoIAlignPooler) -> TraceablePooler:
    """Return the same pooling as matrix products."""
    return TraceablePooler(pooler.size)


REPLACEMENTS: dict[type[nn.Module], Callable[..., nn.Module]] = {
    FoldedConv2d: fold,
    FastestPooler: as_products,
    GatherPooler: as_products,
    RoIAlignPooler: as_products,
    SeparablePooler: as_products,
}


def traceable(model: SAMDETR) -> SAMDETR:
    """Copy a detector with traceable modules and without the modules used in training."""
    copy = deepcopy(model)
    copy.denoising, copy.criterion = NoDenoising(), nn.Identity()
    for parent in list(copy.modules()):
        for name, child in list(parent.named_children()):
            if type(child) in REPLACEMENTS:
                setattr(parent, name, REPLACEMENTS[type(child)](child))
    return copy.eval().requires_grad_(False)


@contextmanager
def traceable_kernels() -> Iterator[None]:
    """Context manager that selects kernels of standard operators in the block."""
    chosen = sampling.backend, kernels.backend
    sampling.backend, kernels.backend = "grid", "plain"
    try:
        yield
    finally:
        sampling.backend, kernels.backend = chosen
