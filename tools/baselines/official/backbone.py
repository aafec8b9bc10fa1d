"""torchvision's ResNet with frozen batch norms, and the sine encoding of the cells of its maps.

Shapes: B images, H x W cells of a feature map.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from detectron2.layers import CNNBlockBase
from detectron2.modeling.backbone.resnet import BottleneckBlock, ResNet
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops.misc import FrozenBatchNorm2d


class Body(nn.Module):
    """The residual stages, as many as any output needs; maps are contiguous and norms unfolded.

    Args:
        backbone: Detectron2's ResNet of the same layout, of which only the sizes are taken.
        outputs: torchvision's names of the stages to return, "layer1" to "layer4".
    """

    def __init__(self, backbone: ResNet, outputs: list[str]):
        super().__init__()
        self.outputs = outputs
        width = backbone.stem.conv1.out_channels
        self.conv1 = nn.Conv2d(3, width, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = FrozenBatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        stages = {
            f"layer{i}": nn.Sequential(*[block_like(x) for x in stage])
            for i, stage in enumerate(backbone.stages, start=1)
        }
        self.stages = list(stages)
        for name, stage in stages.items():
            self.add_module(name, stage)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(B, 3, height, width) images to the maps of `outputs` by name."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        maps = {}
        for name in self.stages:
            x = self.get_submodule(name)(x)
            maps[name] = x
        return {name: maps[name] for name in self.outputs}


def block_like(block: CNNBlockBase) -> nn.Module:
    """torchvision's residual block of the sizes of Detectron2's."""
    conv = block.conv1
    downsample = None
    if block.shortcut is not None:
        downsample = nn.Sequential(
            nn.Conv2d(block.in_channels, block.out_channels, 1, stride=block.stride, bias=False),
            FrozenBatchNorm2d(block.out_channels),
        )
    if not isinstance(block, BottleneckBlock):
        return BasicBlock(
            conv.in_channels,
            conv.out_channels,
            block.stride,
            downsample,
            norm_layer=FrozenBatchNorm2d,
        )
    return Bottleneck(
        conv.in_channels,
        conv.out_channels,
        block.stride,
        downsample,
        dilation=block.conv2.dilation[0],
        norm_layer=FrozenBatchNorm2d,
    )


class Backbone(nn.Module):
    """The maps of the body with their padding masks and position encodings.

    Args:
        body: from images to maps by name.
        dim: channels of the position encoding.
    """

    def __init__(self, body: Body, dim: int):
        super().__init__()
        self.body = body
        self.dim = dim

    def forward(
        self, images: Tensor, mask: Tensor
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Run the body.

        Args:
            images: (B, 3, height, width).
            mask: (B, height, width) bool, True on padding.

        Returns:
            Per level, fine to coarse: a (B, channels, H, W) map, its (B, H, W) mask and its
            (B, dim, H, W) position encoding.
        """
        maps = list(self.body(images).values())
        masks = [F.interpolate(mask[None].float(), size=x.shape[-2:])[0].bool() for x in maps]
        return maps, masks, [encode_cells(x, self.dim) for x in masks]


def encode_cells(mask: Tensor, dim: int) -> Tensor:
    """(B, H, W) bool mask, True on padding, to the (B, dim, H, W) position encoding."""
    y = (~mask).cumsum(1, dtype=torch.float32) - 0.5
    x = (~mask).cumsum(2, dtype=torch.float32) - 0.5
    y = y / (y[:, -1:, :] + 1e-6 + 0.5) * (2 * math.pi)
    x = x / (x[:, :, -1:] + 1e-6 + 0.5) * (2 * math.pi)
    return torch.cat([interleaved(y, dim // 2), interleaved(x, dim // 2)], 3).permute(0, 3, 1, 2)


def interleaved(angle: Tensor, dim: int) -> Tensor:
    """(...) angles to (..., dim): sines of falling frequencies on even channels, cosines on odd."""
    channel = torch.arange(dim, dtype=torch.float64, device=angle.device)
    period = (10000 ** (2 * (channel // 2) / dim)).float()
    scaled = angle[..., None] / period
    return torch.stack([scaled[..., 0::2].sin(), scaled[..., 1::2].cos()], dim=-1).flatten(-2)


@torch.no_grad()
def encode_points(points: Tensor, dim: int) -> Tensor:
    """(..., 2) points (x, y), 1 being the image, to (..., dim), channels of y first."""
    angle = points * (2 * math.pi)
    y, x = interleaved(angle[..., 1], dim // 2), interleaved(angle[..., 0], dim // 2)
    return torch.cat([y, x], dim=-1)
