"""What a backbone of Detectron2's builders lacks: DC5 as in DETR, and batch norms folded."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from detectron2.modeling import Backbone
from detectron2.modeling.backbone.resnet import BottleneckBlock, CNNBlockBase, ResNet
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .layers import precision


def resnet50_dc5_stages(norm: str = "FrozenBN") -> list[list[CNNBlockBase]]:
    """The stages of a ResNet-50 whose last stage keeps stride 16 by dilation (DC5).

    The first 3x3 convolution of that stage is not dilated, as in torchvision's ResNet and so in
    every DETR; Detectron2's own DC5 dilates all three.

    Args:
        norm: normalisation by Detectron2's name.
    """
    stages = ResNet.make_default_stages(50, stride_in_1x1=False, norm=norm)
    stages[-1] = ResNet.make_stage(
        BottleneckBlock,
        num_blocks=3,
        in_channels=1024,
        out_channels=2048,
        bottleneck_channels=512,
        stride_per_block=[1, 1, 1],
        dilation_per_block=[1, 2, 2],
        stride_in_1x1=False,
        norm=norm,
    )
    return stages


class FoldedConvolution(torch.autograd.Function):
    """Convolution by a weight that is scaled on the way, forward and backward.

    The scaled weight, as large as the weight itself, is not kept for the gradients.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor, conv: Conv2d
    ) -> Tensor:
        """(B, C, H, W) maps; scale and bias are (C'), conv has the settings."""
        ctx.save_for_backward(x, weight, scale)
        ctx.settings = conv.stride, conv.padding, conv.dilation, conv.groups
        return F.conv2d(x, scaled(weight, scale), bias, *ctx.settings)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, weight and bias."""
        x, weight, scale = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.settings
        dtype = gradient.dtype
        if x.shape[-1] == 1:  # where oneDNN leaves parts of a bfloat16 gradient unwritten
            dtype = precision(dtype)
        of_x, of_weight, of_bias = torch.ops.aten.convolution_backward(
            gradient.to(dtype),
            x.to(dtype),
            scaled(weight, scale).to(dtype),
            [len(weight)],
            stride,
            padding,
            dilation,
            False,
            [0, 0],
            groups,
            [ctx.needs_input_grad[i] for i in (0, 1, 3)],
        )
        of_weight = None if of_weight is None else scaled(of_weight.to(weight.dtype), scale)
        return of_x, of_weight, None, of_bias, None


def scaled(weight: Tensor, scale: Tensor) -> Tensor:
    """(C', C, R, R) weight of a convolution whose outputs are to be multiplied by (C')."""
    return weight * scale[:, None, None, None]


class FoldedConv2d(Conv2d):
    """Detectron2's convolution, its frozen batch norm folded into weight and bias at every call.

    The convolution then runs over the map alone, and in training neither its output before the norm
    nor the norm's is kept. Parameters and buffers have the names they had.
    """

    @classmethod
    def of(cls, conv: Conv2d) -> FoldedConv2d:
        """A convolution that shares the parameters and the frozen norm of another."""
        folded = cls(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            conv.stride,
            conv.padding,
            conv.dilation,
            conv.groups,
            bias=conv.bias is not None,
            norm=conv.norm,
            activation=conv.activation,
            device="meta",
        )
        folded.weight, folded.bias = conv.weight, conv.bias
        return folded

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H', W')."""
        scale, bias = self.scale_and_bias()
        if torch.is_grad_enabled() and self.weight.requires_grad:
            x = FoldedConvolution.apply(x, self.weight, scale, bias, self)
        else:
            x = self._conv_forward(x, scaled(self.weight, scale), bias)
        return x if self.activation is None else self.activation(x)

    def scale_and_bias(self) -> tuple[Tensor, Tensor]:
        """(C') factor of the weight and (C') bias, for convolution and norm in one."""
        norm = self.norm
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        bias = norm.bias - norm.running_mean * scale
        return scale, bias if self.bias is None else bias + self.bias * scale


def fold_frozen_norms(backbone: Backbone) -> Backbone:
    """Fold every frozen batch norm behind a convolution of Detectron2, in place.

    Args:
        backbone: any; norms that are trained and layers of other kinds stay as they are.

    Returns:
        The same backbone.
    """
    for parent in list(backbone.modules()):
        for name, child in list(parent.named_children()):
            if is_foldable(child):
                setattr(parent, name, FoldedConv2d.of(child))
    return backbone


def is_foldable(module: nn.Module) -> bool:
    """If a module is a plain convolution with a frozen norm behind it."""
    if type(module) is not Conv2d or type(module.norm) is not FrozenBatchNorm2d:
        return False
    return module.padding_mode == "zeros" and not isinstance(module.padding, str)
