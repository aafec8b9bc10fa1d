"""Backbones that Detectron2's builders lack, and the folding of frozen batch norms.

Paper: section 5.1 (ResNet-50 and its DC5 variant, as in DETR).

Shapes: maps are (B, C, H, W); C' output channels of a convolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from detectron2.layers import Conv2d, FrozenBatchNorm2d
from detectron2.modeling import Backbone, SwinTransformer, ViT
from detectron2.modeling.backbone.resnet import (
    BasicBlock,
    BasicStem,
    BottleneckBlock,
    CNNBlockBase,
    ResNet,
)
from torch import Tensor, nn

from .layers import NarrowConv2d

STEM_CHANNELS = 32  # of mini_resnet
STAGES = {"res2": (1, 32), "res3": (3, 96), "res4": (1, 104), "res5": (1, 120)}
"""Blocks and channels of every stage of `mini_resnet`."""


def resnet50_dc5_stages(norm: str = "FrozenBN") -> list[list[CNNBlockBase]]:
    """Build the stages of a ResNet-50 whose last stage keeps stride 16 by dilation (DC5).

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


def mini_resnet(
    out_features: Sequence[str] = ("res3",),
    norm: str = "FrozenBN",
    freeze_at: int = 0,
    in_channels: int = 3,
) -> ResNet:
    """Build the backbone of the models in `configs/mini`, a ResNet of one million parameters.

    Most of its capacity is in res3 (stride 8), the only level that a single-scale mini model reads:
    its three blocks have a receptive field of 115 pixels, more than a whole image. The slim res4
    and res5 (strides 16 and 32) are for multi-scale models. The weights, in the file
    `samdetr.data.mini_backbone_weights()`, expect RGB normalised by ImageNet's mean and standard
    deviation.

    Args:
        out_features: stages to return, of res2 to res5; stages after the last are not built.
        norm: normalisation by Detectron2's name; "FrozenBN" keeps the statistics of the
            pretraining, "BN" trains them.
        freeze_at: number of stages to freeze: 1 for the stem, 2 for res2 as well, and so on.
    """
    stages, channels = [], STEM_CHANNELS
    for name, (blocks, width) in STAGES.items():
        stride = 1 if name == "res2" else 2
        stages.append(
            ResNet.make_stage(
                BasicBlock,
                blocks,
                stride_per_block=[stride] + [1] * (blocks - 1),
                in_channels=channels,
                out_channels=width,
                norm=norm,
            )
        )
        channels = width
    stem = BasicStem(in_channels, STEM_CHANNELS, norm)
    return ResNet(stem, stages, out_features=list(out_features), freeze_at=freeze_at)


def padding_constraints(backbone: Backbone) -> dict[str, int]:
    """Return what a backbone demands of the size of a batch, as for Detectron2's `ImageList`.

    Detectron2 misspells the divisor of its Swin Transformer, whose `size_divisibility` is then 0 or
    an error, and of its SimpleFeaturePyramid. Its ViT has none and drops incomplete patches.
    """
    constraints = dict(backbone.padding_constraints)
    if isinstance(backbone, SwinTransformer | ViT):
        divisor = max(x.stride for x in backbone.output_shape().values())
    else:
        divisor = constraints.get("size_divisiblity", backbone.size_divisibility)
    return {"size_divisibility": divisor, **constraints}


def fold_frozen_norms(backbone: Backbone) -> Backbone:
    """Return a copy of a backbone whose convolutions apply the frozen batch norms behind them.

    The copy shares all tensors with the original. Trained norms and other kinds of layers are kept.
    """
    tensors = [*backbone.parameters(), *backbone.buffers()]
    memo: dict[int, Any] = {id(x): x for x in tensors}
    # deepcopy takes what is in its memo for a copy: the tree is rebuilt around the new layers.
    memo |= {id(x): FoldedConv2d(x) for x in backbone.modules() if is_foldable(x)}
    return deepcopy(backbone, memo)


def is_foldable(module: nn.Module) -> bool:
    """Return True for a plain Detectron2 convolution with a frozen batch norm behind it."""
    if type(module) is not Conv2d or type(module.norm) is not FrozenBatchNorm2d:
        return False
    return module.padding_mode == "zeros" and not isinstance(module.padding, str)


class FoldedConv2d(NarrowConv2d, Conv2d):
    """Detectron2's convolution with its frozen batch norm folded into weight and bias at each call.

    The norm then costs no pass over the map, and training stores neither the map before the norm
    nor the one behind it. Parameters and buffers keep their names.

    Args:
        conv: the convolution, whose parameters and frozen norm are shared.
    """

    norm: Any
    activation: Any

    def __init__(self, conv: Conv2d):
        options = options_of(conv) | {"bias": conv.bias is not None, "norm": conv.norm}
        super().__init__(**options, device="meta")
        self.weight, self.bias = conv.weight, conv.bias

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H', W')."""
        x = self._conv_forward(x, *self.folded())
        return x if self.activation is None else self.activation(x)

    def folded(self) -> tuple[Tensor, Tensor]:
        """(C', C, R, R) weight and (C') bias of convolution and norm together."""
        norm = self.norm
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        bias = norm.bias - norm.running_mean * scale
        weight = self.weight * scale[:, None, None, None]
        return weight, bias if self.bias is None else bias + self.bias * scale


def options_of(conv: Conv2d) -> dict[str, Any]:
    """Return the arguments that build a convolution like another one, but for bias and norm."""
    shape = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation")
    return {name: getattr(conv, name) for name in (*shape, "groups", "activation")}
