"""Stages of Detectron2's ResNet that its own builder does not make."""

from __future__ import annotations

from detectron2.modeling.backbone.resnet import BottleneckBlock, CNNBlockBase, ResNet


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
