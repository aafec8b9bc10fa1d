"""Modules and kernels that can be traced for images of all sizes.

Kernels for the CPU in `modeling/ops/` build lists that depend on tensor values. Here they are
replaced by matrix products and standard operators, with the same results up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from copy import deepcopy

import torch
from detectron2.layers import Conv2d
from torch import nn

from ..modeling import SAMDETR, NoDenoising
from ..modeling.backbone import FoldedConv2d, scaled
from ..modeling.ops import backends


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


REPLACEMENTS: dict[type[nn.Module], Callable[..., nn.Module]] = {
    FoldedConv2d: fold,
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


def traceable_kernels() -> AbstractContextManager[None]:
    """Attention, sampling and RoIAlign by operators that every runtime has."""
    return backends(attend="plain", deformable="grid", roi_align="products")
