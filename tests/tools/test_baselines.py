"""Baselines of the benchmark: the official computation equals ours, and the peers run."""

from __future__ import annotations

from importlib import import_module

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.modeling.backbone.resnet import BasicStem, BottleneckBlock, ResNet
from torch import nn
from torch.testing import assert_close

import official as fixtures
from baselines.official import official
from baselines.official.weights import ours
from conftest import make_batch, make_config, randomize, randomize_statistics
from official import CONFIGS, assert_near, build, tolerance
from samdetr.modeling import DeformableSelfAttention, MultiScaleMapper

pytestmark = pytest.mark.slow

SIZES = ((48, 64), (40, 33), (64, 37))  # every image is padded
COUNTS = {"half-empty": (3, 0, 1), "empty": (0, 0, 0)}
WIDTHS = (16, 24, 32, 40)  # of the stages of `dc5_stages`
PEERS = ("detr", "conditional_detr", "dab_detr", "deformable_detr")
TINY = {
    **dict(encoder_layers=1, decoder_layers=2, encoder_ffn_dim=48, decoder_ffn_dim=48),
    **dict(num_queries=12, encoder_attention_heads=4, decoder_attention_heads=4),
}


def dc5_stages() -> list:
    """Bottleneck stages of a block or two, the last of which keeps its stride by dilation."""
    channels = (8, *WIDTHS)
    return [
        ResNet.make_stage(
            BottleneckBlock,
            depth,
            stride_per_block=[stride] + [1] * (depth - 1),
            dilation_per_block=[1] + [3 - stride] * (depth - 1) if stage == 3 else [1] * depth,
            in_channels=channels[stage],
            out_channels=channels[stage + 1],
            bottleneck_channels=channels[stage + 1] // 4,
            stride_in_1x1=False,
            norm="FrozenBN",
        )
        for stage, (depth, stride) in enumerate([(1, 1), (2, 2), (1, 2), (3, 1)])
    ]


def plain():
    return make_config("sam_detr", neck__norm="")


def smca():
    return make_config("sam_detr_smca", backbone__freeze_at=2)


def dc5():
    config = make_config("sam_detr", neck__in_channels=dict(res5=WIDTHS[-1]))
    del config.neck.in_channels["res3"]
    stem = L(BasicStem)(in_channels=3, out_channels=8, norm="FrozenBN")
    config.backbone = L(ResNet)(stem=stem, stages=L(dc5_stages)(), out_features=["res5"])
    return config


def multi_scale_smca():
    config = make_config("sam_detr_smca", encoder__num_layers=2, decoder__levels=[2, 1, 0])
    config.backbone.out_features = ["res3", "res4", "res5"]
    config.neck._target_ = MultiScaleMapper
    config.neck.in_channels = dict(res3=96, res4=104, res5=120)
    config.encoder.layer.attention = L(DeformableSelfAttention)(
        dim=64, num_heads=8, num_levels=3, num_points=4
    )
    return config


def make_model(config) -> nn.Module:
    """A model with the official three hidden layers in its keypoint head, random everywhere."""
    resampler = config.decoder.layer.aligner.resampler
    resampler.hidden_dims = [24, 40, 32]
    model = randomize(instantiate(config), std=0.05)
    model.detections_per_image = 10  # few enough to lie apart in score
    randomize_statistics(model.backbone)
    return model


@pytest.fixture(scope="module", params=[plain, smca, dc5, multi_scale_smca])
def model(request) -> nn.Module:
    torch.manual_seed(0)
    return make_model(request.param())


@pytest.mark.parametrize("counts", COUNTS.values(), ids=COUNTS)
def test_official_has_our_outputs_losses_and_gradients_in_every_layer(model, counts):
    twin = official(model.train())
    assert twin.training
    batch = make_batch(SIZES, counts)
    predictions: list = []
    handle = model.decoder.register_forward_hook(lambda *x: predictions.append(x[-1]))
    model.zero_grad()
    losses, expected = model(batch), twin(batch)
    handle.remove()
    layers = twin.predict(*twin.batch([x["image"] for x in batch]))

    for index, layer in enumerate(layers):
        assert_close(predictions[0].logits[index], layer["logits"], atol=1e-4, rtol=0)
        assert_close(predictions[0].boxes[index], layer["boxes"], atol=1e-5, rtol=0)
    assert losses.keys() == expected.keys()
    for name, loss in losses.items():
        assert_close(loss, expected[name], atol=1e-6, rtol=1e-4, msg=name)
    sum(losses.values()).backward()
    sum(expected.values()).backward()
    check_gradients(model, twin)


def check_gradients(model: nn.Module, twin: nn.Module) -> None:
    weights, parameters = model.state_dict(), dict(model.named_parameters())
    for name, parameter in twin.named_parameters():
        mine = [parameters[x] for x in ours(name, weights)]
        assert [x.requires_grad for x in mine] == [parameter.requires_grad] * len(mine), name
        if parameter.requires_grad:
            difference = torch.cat([x.grad for x in mine]) - parameter.grad
            assert difference.norm() <= 1e-3 * parameter.grad.norm() + 1e-4, name


@pytest.mark.parametrize("variant", ["r50_dc5_smca", "r50_ms_smca"])
def test_official_has_the_names_outputs_and_losses_of_the_authors(variant):
    expected = fixtures.expected(variant)
    arrays, atol = expected["arrays"], tolerance(variant)
    twin = official(build(CONFIGS[variant]))
    twin.load_state_dict(fixtures.state_dict(variant), strict=True)
    batch = fixtures.batch("a")
    with torch.no_grad():
        layers = twin.predict(*twin.batch([x["image"] for x in batch]))
        losses = twin.criterion(layers, [twin.target(x["instances"]) for x in batch])

    for index, layer in enumerate(layers):
        assert_near(layer["logits"], arrays["pred_logits"][index], atol.logits)
        assert_near(layer["boxes"], arrays["pred_boxes"][index], atol.boxes)
    found = {name: x.item() for name, x in losses.items()}
    wanted = expected["losses"]["a"]
    logged = {name: found.pop(name) for name in wanted["logged"]}
    assert found == pytest.approx(wanted["unweighted"], rel=1e-4, abs=0)
    assert logged == pytest.approx(wanted["logged"], abs=1)


@pytest.fixture
def peers():
    pytest.importorskip("transformers")
    return import_module("baselines.peers")


@pytest.mark.parametrize("name", PEERS)
def test_peer_detects_and_trains(peers, name, monkeypatch):
    width = {"hidden_size" if name == "dab_detr" else "d_model": 64}
    whole = peers.transformers.ResNetConfig
    small = dict(embedding_size=8, hidden_sizes=WIDTHS, depths=(1, 1, 1, 1))
    monkeypatch.setattr(peers.transformers, "ResNetConfig", lambda **x: whole(**small, **x))
    make = peers.make
    monkeypatch.setattr(peers, "make", lambda *x, **y: make(*x, **y, **TINY, **width))
    peer = getattr(peers, name)(instantiate(make_config("sam_detr")).train())
    batch = make_batch(((96, 130), (70, 64)), (3, 0))

    losses = peer(batch)
    sum(losses.values()).backward()
    with torch.no_grad():
        found = [x["instances"] for x in peer.eval()(batch)]

    assert losses.keys() == {"loss"} and losses["loss"].isfinite()
    assert all(x.grad.isfinite().all() for x in peer.parameters() if x.grad is not None)
    for x, size in zip(found, [(96, 130), (70, 64)]):
        assert x.image_size == size and len(x) == 60  # 12 queries of 5 classes
        assert x.scores.diff().max() <= 0 and x.scores.min() >= 0 and x.scores.max() <= 1
        assert set(x.pred_classes.tolist()) <= set(range(5))
