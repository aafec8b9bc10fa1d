"""Backbones against torchvision's with the same weights."""

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from detectron2.config import LazyConfig, instantiate
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from detectron2.modeling import Backbone
from torch.testing import assert_close
from torchvision.models import resnet50
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.ops.misc import FrozenBatchNorm2d as TorchvisionFrozenBatchNorm2d

from conftest import MODELS, randomize, randomize_statistics
from samdetr.convert import DETR, rename
from samdetr.modeling import mini_resnet
from samdetr.modeling.backbone import FoldedConv2d, fold_frozen_norms

STAGES = {f"layer{i}": f"res{i + 1}" for i in (1, 2, 3, 4)}


def make_twin(dilated):
    """torchvision's ResNet-50."""
    strides = [False, False, dilated]
    twin = resnet50(norm_layer=TorchvisionFrozenBatchNorm2d, replace_stride_with_dilation=strides)
    return randomize_statistics(twin)


@pytest.mark.slow
@pytest.mark.parametrize(("config", "dilated"), [("sam_detr", False), ("sam_detr_dc5", True)])
def test_every_stage_equals_torchvisions_with_the_same_weights(config, dilated):
    backbone = LazyConfig.load(str(MODELS / f"{config}.py")).model.backbone
    backbone.out_features = [*STAGES.values()]
    ours, twin = instantiate(backbone), make_twin(dilated)
    weights = {
        rename(f"backbone.0.body.{k}", DETR).removeprefix("backbone."): v
        for k, v in twin.state_dict().items()
        if not k.startswith("fc.")
    }
    ours.load_state_dict(weights)
    images = torch.randn(2, 3, 65, 96)
    with torch.no_grad():
        features, expected = ours(images), IntermediateLayerGetter(twin, STAGES)(images)
    for name in STAGES.values():
        scale = expected[name].abs().max()
        assert_close(features[name] / scale, expected[name] / scale, atol=1e-5, rtol=0)
    stride = ours.output_shape()["res5"].stride
    assert stride == (16 if dilated else 32)
    assert features["res5"].shape[-2:] == (-(-65 // stride), 96 // stride)


def test_the_stem_and_res2_are_frozen_and_nothing_else():
    backbone = instantiate(LazyConfig.load(str(MODELS / "sam_detr_dc5.py")).model.backbone)
    for name, parameter in backbone.named_parameters():
        assert parameter.requires_grad == (not name.startswith(("stem.", "res2."))), name


@pytest.mark.parametrize("make", [lambda: mini_resnet(("res3", "res5")), lambda: wide_conv()])
def test_folded_norms_change_neither_values_nor_gradients_nor_names(make):
    plain = randomize_statistics(randomize(make(), std=0.1)).double()
    folded = fold_frozen_norms(deepcopy(plain)).to(memory_format=torch.channels_last)
    assert sum(isinstance(x, FoldedConv2d) for x in folded.modules()) == sum(
        getattr(x, "norm", None) is not None for x in plain.modules()
    )
    assert not any(type(x) is Conv2d and x.norm is not None for x in folded.modules())
    assert_close(folded.state_dict(), plain.state_dict(), atol=0, rtol=0)
    images = torch.randn(2, 3, 32, 64, dtype=torch.float64)
    features, expected = folded(images), plain(images)
    assert_close(features, expected)
    for outputs in (features, expected):
        sum(x.sin().sum() for x in outputs.values()).backward()
    for (name, ours), theirs in zip(folded.named_parameters(), plain.parameters()):
        assert_close(ours.grad, theirs.grad, msg=name)


def wide_conv():
    """A convolution with everything that ResNet has not: bias, groups, an activation."""

    class Wide(Backbone):
        def __init__(self):
            super().__init__()
            norm = FrozenBatchNorm2d(8)
            self.conv = Conv2d(
                3, 8, 3, padding=2, dilation=2, bias=True, norm=norm, activation=F.relu
            )
            self.grouped = Conv2d(8, 16, 3, groups=4, stride=2, norm=FrozenBatchNorm2d(16))

        def forward(self, x):
            return {"out": self.grouped(self.conv(x))}

    return Wide()


def test_trained_norms_are_not_folded():
    backbone = fold_frozen_norms(mini_resnet(("res3",), norm="BN"))
    assert not any(isinstance(x, FoldedConv2d) for x in backbone.modules())
