"""The detector in parts that become a graph for images of all sizes; the one place that says which.

On a CPU the kernels of `modeling/ops/` have lists and loops that depend on numbers. Here they are
matrix products and operators that every runtime has, with the same results to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy

import torch
from detectron2.layers import Conv2d
from torch import Tensor, nn

from ..errors import ExportError
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

    With room for one sample more than there can be: what has the length 1 while it is traced is
    taken to have it always.
    """

    def weights(self, boxes: Tensor, level: FeatureLevel) -> tuple[Tensor, Tensor]:
        """As in the parent."""
        return bin_weights(boxes, level, self.size, spare=1)


@torch.no_grad()
def fold(conv: FoldedConv2d) -> Conv2d:
    """A convolution with its frozen norm in the weights, once and not at every call."""
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
    """The same pooling as matrix products."""
    return TraceablePooler(pooler.size)


REPLACEMENTS: dict[type[nn.Module], Callable[..., nn.Module]] = {
    FoldedConv2d: fold,
    FastestPooler: as_products,
    GatherPooler: as_products,
    RoIAlignPooler: as_products,
    SeparablePooler: as_products,
}


def check_model(model: nn.Module) -> SAMDETR:
    """The model, as one that can be exported.

    Raises:
        ExportError: if it is no SAMDETR, or one that detects in mixed precision.
    """
    if not isinstance(model, SAMDETR):
        raise ExportError(f"the model is a {type(model).__name__}, must be a SAMDETR")
    if model.inference_dtype != torch.float32:
        name = str(model.inference_dtype).removeprefix("torch.")
        raise ExportError(
            f"model.inference_dtype is {name}, but what is exported computes in float32: set it to "
            "float32"
        )
    return model


def traceable(model: SAMDETR) -> SAMDETR:
    """A copy of a detector in evaluation mode, of parts that trace, without those for training."""
    copy = deepcopy(model)
    copy.denoising, copy.criterion = NoDenoising(), nn.Identity()
    for parent in list(copy.modules()):
        for name, child in list(parent.named_children()):
            if type(child) in REPLACEMENTS:
                setattr(parent, name, REPLACEMENTS[type(child)](child))
    return copy.eval().requires_grad_(False)


@contextmanager
def traceable_kernels() -> Iterator[None]:
    """Attention and deformable sampling by PyTorch's operators, inside of it."""
    chosen = sampling.backend, kernels.backend
    sampling.backend, kernels.backend = "grid", "plain"
    try:
        yield
    finally:
        sampling.backend, kernels.backend = chosen
