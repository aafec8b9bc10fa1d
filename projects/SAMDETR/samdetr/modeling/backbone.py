"""What a backbone of Detectron2's builders lacks: DC5 as in DETR, and batch norms folded."""

from __future__ import annotations

from detectron2.layers import Conv2d, FrozenBatchNorm2d
from detectron2.modeling import Backbone
from detectron2.modeling.backbone.resnet import BottleneckBlock, CNNBlockBase, ResNet
from torch import Tensor


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
            padding_mode=conv.padding_mode,
            norm=conv.norm,
            activation=conv.activation,
            device="meta",
        )
        folded.weight, folded.bias = conv.weight, conv.bias
        return folded

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H', W')."""
        norm = self.norm
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        shift = norm.bias - norm.running_mean * scale
        bias = shift if self.bias is None else shift + self.bias * scale
        x = self._conv_forward(x, self.weight * scale[:, None, None, None], bias)
        return x if self.activation is None else self.activation(x)


def fold_frozen_norms(backbone: Backbone) -> Backbone:
    """Fold every frozen batch norm behind a convolution of Detectron2, in place.

    Args:
        backbone: any; norms that are trained and layers of other kinds stay as they are.

    Returns:
        The same backbone.
    """
    for parent in list(backbone.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is Conv2d and isinstance(child.norm, FrozenBatchNorm2d):
                setattr(parent, name, FoldedConv2d.of(child))
    return backbone
