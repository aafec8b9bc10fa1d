"""timm's models and Detectron2's transformers as backbones: features, sizes, weights and rates."""

import logging
import re
import sys
from pathlib import Path

import pytest
import timm
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.modeling import SimpleFeaturePyramid, SwinTransformer, ViT
from safetensors.torch import save_file
from timm.layers import BatchNormAct2d
from torch import nn
from torch.testing import assert_close

from conftest import make_batch, randomize
from samdetr.checkpoint import CheckpointError, InitialCheckpointer
from samdetr.engine import LayerDecay, load_config
from samdetr.errors import MissingCheckpointError
from samdetr.modeling import TimmBackbone
from samdetr.modeling.layers import meta_device

MINI = Path(__file__).parents[2] / "configs" / "mini"
VIT = dict(depth=2, embed_dim=48, num_heads=3)
SWIN = dict(embed_dim=16, depths=[1, 1, 2, 1], num_heads=[1, 1, 2, 2], window_size=4)
CONVNETS = {
    "resnet18": {},
    "convnext_atto": dict(depths=[1, 1, 1, 1], dims=[8, 16, 24, 32]),
    "mobilenetv3_small_050": {},
}
VITS = ["vit_tiny_patch16_224", "vit_small_patch16_dinov3", "vit_small_patch14_reg4_dinov2"]
SIZES = ((75, 58), (41, 97))


def make_vit(name, **settings):
    levels = ("p2", "p3", "p4") if "patch14" in name else ("p3", "p4", "p5")
    return TimmBackbone(name, levels, pyramid_dim=16, **{**VIT, **settings})


def detectron2_vit(**settings):
    return ViT(img_size=64, window_size=2, window_block_indexes=[0], **{**VIT, **settings})


def make_backbone(name):
    """A small backbone of each kind."""
    match name:
        case "Swin":
            return SwinTransformer(**SWIN, out_indices=[1, 2, 3])
        case "ViT":
            return detectron2_vit()
        case "ViTDet":
            net = detectron2_vit(use_rel_pos=True)
            return SimpleFeaturePyramid(net, "last_feat", 16, [2.0, 1.0, 0.5])
        case "swin_tiny_patch4_window7_224":
            return TimmBackbone(name, **SWIN)
    return make_vit(name) if name in VITS else TimmBackbone(name, **CONVNETS[name])


def detector(backbone):
    """A small SAM-DETR++ on a backbone."""
    cfg = load_config(str(MINI / "sam_detr_pp_smca_dn.py"))
    shapes = backbone.output_shape()
    cfg.model.neck.in_channels = {name: x.channels for name, x in shapes.items()}
    cfg.model.encoder.layer.attention.num_levels = len(shapes)
    cfg.model.decoder.levels = [*reversed(range(len(shapes)))]
    cfg.model.backbone = backbone
    return instantiate(cfg.model)


@pytest.fixture
def log(caplog):
    """Messages of this package, which Detectron2's set-up keeps to itself."""
    logger = logging.getLogger("samdetr")
    propagate, logger.propagate = logger.propagate, True
    with caplog.at_level("INFO"):
        yield caplog
    logger.propagate = propagate


@pytest.mark.parametrize("name", CONVNETS)
def test_maps_equal_timms_own_features(name):
    backbone = randomize(TimmBackbone(name, ["p3", "p5"], norm="", **CONVNETS[name]), 0.02).eval()
    twin = timm.create_model(name, features_only=True, **CONVNETS[name]).eval()
    weights = backbone.net.model.state_dict()
    if name.startswith("convnext"):  # timm flattens it
        weights = {re.sub(r"^(stem|stages)\.", r"\1_", key): x for key, x in weights.items()}
    missing, unexpected = twin.load_state_dict(weights, strict=False)
    assert not unexpected
    images = torch.randn(2, 3, 64, 96)

    with torch.no_grad():
        maps, expected = backbone(images), dict(zip(twin.feature_info.reduction(), twin(images)))

    shapes = backbone.output_shape()
    assert {key: x.stride for key, x in shapes.items()} == {"p3": 8, "p5": 32}
    for key, shape in shapes.items():
        assert maps[key].shape[1] == shape.channels
        assert_close(maps[key], expected[shape.stride])


@pytest.mark.parametrize("name", VITS)
def test_the_pyramid_of_a_vit_is_on_its_last_normalised_tokens_for_any_size(name):
    backbone = randomize(make_vit(name), 0.05).eval()
    twin = timm.create_model(name, num_classes=0, dynamic_img_size=True, **VIT).eval()
    pyramid = backbone.net
    twin.load_state_dict(pyramid.net.model.state_dict())
    patch = twin.patch_embed.patch_size[0]
    images = torch.randn(2, 3, 6 * patch, 4 * patch)  # another grid than that of pos_embed

    with torch.no_grad():
        (found,) = pyramid.net(images).values()
        tokens = twin.forward_features(images)[:, twin.num_prefix_tokens :]
        maps = backbone(images)

    assert_close(found.flatten(2).transpose(1, 2), tokens)
    strides = {key: x.stride for key, x in backbone.output_shape().items()}
    assert [*strides.values()] == [patch // 2, patch, 2 * patch]
    for key, stride in strides.items():
        assert maps[key].shape == (2, 16, 6 * patch // stride, 4 * patch // stride)


KINDS = [*CONVNETS, *VITS, "swin_tiny_patch4_window7_224", "Swin", "ViT", "ViTDet"]


@pytest.mark.parametrize("name", KINDS)
def test_cells_of_every_level_are_whole_and_marked_where_their_first_pixel_is_padding(name):
    model = detector(make_backbone(name))
    strides = [x.stride for x in model.backbone.output_shape().values()]

    images, padding = model.batch(make_batch(SIZES))
    with torch.no_grad():
        levels = model.neck(model.backbone(images.tensor), padding)

    height, width = images.tensor.shape[-2:]
    assert height < 75 + max(strides) and width < 97 + max(strides)
    for level, stride in zip(levels, strides, strict=True):
        assert (level.size[0] * stride, level.size[1] * stride) == (height, width)
        rows, columns = (stride * torch.arange(x) for x in level.size)
        expected = [(rows[:, None] >= h) | (columns >= w) for h, w in SIZES]
        assert_close(level.padding.unflatten(1, level.size), torch.stack(expected))


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_a_detector_on_it_trains_every_parameter_and_detects(name):
    model = detector(make_backbone(name)).train()
    losses = model(make_batch(SIZES))
    sum(losses.values()).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key
    with torch.no_grad():
        (found,) = model.eval()(make_batch(SIZES[:1]))
    assert found["instances"].pred_boxes.tensor.isfinite().all()


@pytest.mark.parametrize("name", ["convnext_atto", "vit_small_patch16_dinov3", "Swin", "ViTDet"])
def test_bfloat16_is_near_float32(name):
    backbone = make_backbone(name).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = backbone(images)
        with torch.autocast("cpu", torch.bfloat16):
            maps = backbone(images)
    for key, x in expected.items():
        assert (maps[key] - x).abs().mean() < 0.05 * x.abs().mean()


def test_batch_norms_are_frozen_unless_asked_otherwise():
    kinds = (nn.BatchNorm2d, BatchNormAct2d)
    for name in ("resnet18", "mobilenetv3_small_050"):
        backbone = TimmBackbone(name).train()
        assert not any(isinstance(x, kinds) for x in backbone.modules())
        trained = TimmBackbone(name, norm="")
        assert any(isinstance(x, kinds) and x.weight.requires_grad for x in trained.modules())


CLASSIFIERS = {  # and what their detectors have that they lack
    "timm": (
        lambda: make_vit("vit_tiny_patch16_224"),
        lambda: timm.create_model("vit_tiny_patch16_224", **VIT),
        ["backbone.net.simfp_3", "backbone.net.simfp_4", "backbone.net.simfp_5"],
    ),
    "convnext": (
        lambda: make_backbone("convnext_atto"),
        lambda: timm.create_model("convnext_atto", **CONVNETS["convnext_atto"]),
        [],
    ),
    "Swin": (
        lambda: make_backbone("Swin"),
        lambda: SwinTransformer(**SWIN, out_indices=[]),
        ["backbone.norm1", "backbone.norm2", "backbone.norm3"],
    ),
    "ViTDet": (
        lambda: make_backbone("ViTDet"),
        detectron2_vit,
        ["backbone.simfp_3", "backbone.simfp_4", "backbone.simfp_5", "rel_pos_h", "rel_pos_w"],
    ),
}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_the_weights_of_a_classifier_fill_the_backbone_and_the_rest_is_listed(
    kind, suffix, tmp_path, log
):
    make, make_classifier, new = CLASSIFIERS[kind]
    source, model = randomize(make_classifier()), detector(make())
    weights = {**source.state_dict(), "head.bias": torch.zeros(7)}
    path = str(tmp_path / f"file{suffix}")
    if suffix == ".pth":
        torch.save({"model": weights, "epoch": 3}, path)
    else:
        save_file(weights, path)

    InitialCheckpointer(model).load(path)

    (prefix,) = {
        "timm": ["backbone.net.net.model."],
        "convnext": ["backbone.net.model."],
        "Swin": ["backbone."],
        "ViTDet": ["backbone.net."],
    }[kind]
    filled = model.state_dict()
    kept = [x for x in weights if not x.startswith(("head.", "fc_norm."))]
    for key in kept:
        assert_close(filled[prefix + key], weights[key], rtol=0, atol=0, msg=key)
    listed = log.messages[-1].partition("random weights remain in ")[2].split(", ")
    assert listed == sorted([*new, "decoder", "encoder", "neck", "queries"])


def test_weights_of_another_depth_are_refused(tmp_path):
    shallow = timm.create_model("vit_tiny_patch16_224", **{**VIT, "depth": 1})
    torch.save(shallow.state_dict(), tmp_path / "file.pth")
    with pytest.raises(CheckpointError, match=r"missing: backbone\.net\.net\.model\.blocks\.1\."):
        InitialCheckpointer(detector(make_vit("vit_tiny_patch16_224"))).load(
            str(tmp_path / "file.pth")
        )


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "ViTDet"])
def test_rates_of_layers_fall_from_the_last_block_down_as_in_vitdet(name):
    decay = LayerDecay(0.5, num_layers=2)
    for key, _ in detector(make_backbone(name)).named_parameters():
        below = {".pos_embed": 3, ".cls_token": 3, ".patch_embed.": 3, "blocks.0.": 2}
        below = {**below, "blocks.1.": 1}
        steps = [x for part, x in below.items() if key.startswith("backbone.") and part in key]
        assert decay(key) == 0.5 ** (steps[0] if steps else 0), key


@pytest.mark.parametrize("rate", [0, 1.1, float("nan")])
def test_a_rate_of_layers_that_is_none_is_refused(rate):
    with pytest.raises(ValueError, match=f"rate is {rate}"):
        LayerDecay(rate, 2)


def test_pixel_statistics_other_than_those_of_the_weights_are_told(log):
    detector(make_vit("vit_small_patch16_dinov3"))
    assert "pretrained weights" not in log.text
    detector(make_vit("vit_tiny_patch16_224"))  # of (0.5, 0.5, 0.5)
    assert "model.pixel_mean is" in log.text and "[127.5, 127.5, 127.5]" in log.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(name="convnext_attto"), "'convnext_attto', which timm does not have.* convnext_atto"),
        (dict(name="resnet18", out_features=["p3", "res4"]), r"must be some of \['p1', .*'p5'\]"),
        (dict(name="resnet18", out_features=[]), r"out_features is \[\]"),
        (dict(name="vit_tiny_patch16_224", out_features=["p6"], **VIT), "'p2', 'p3', 'p4', 'p5'"),
        (dict(name="resnet18", norm="GN"), "norm is 'GN'"),
        (dict(name="hf-hub:someone/pickle", pretrained=True), "which timm does not have"),
        (dict(name="resnet18", checkpoint_path="pickle.pth"), "set train.init_checkpoint"),
        (dict(name="resnet18", pretrained_cfg_overlay={"file": "x"}), "set train.init_checkpoint"),
    ],
)
def test_values_it_cannot_have_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        TimmBackbone(**arguments)


def test_without_timm_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'samdetr\[timm\]'"):
        TimmBackbone("resnet18")


def test_a_failed_download_is_one_sentence(monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(timm, "create_model", fail)
    message = r"weights of resnet18 \(no network\): .* train.init_checkpoint"
    with pytest.raises(MissingCheckpointError, match=message):
        TimmBackbone("resnet18", pretrained=True)


def test_the_lines_of_the_documentation_fit_a_config():
    page = (MINI.parents[1] / "docs/adding_a_variant.md").read_text()
    blocks = re.findall(
        r"^```python\n(model\.backbone = .*?|optimizer\..*?)^```$", page, re.M | re.S
    )
    cfg = load_config(str(MINI.parent / "coco/sam_detr_pp_r50_smca_dn_12ep.py"))
    assert len(blocks) == 2
    for block in blocks:
        exec(block, {**cfg, "L": L, "TimmBackbone": TimmBackbone, "LayerDecay": LayerDecay})
    with meta_device():
        instantiate(cfg.model)
    assert instantiate(cfg.optimizer.params.lr_factor_func)("backbone.blocks.11.x") == 0.7
    assert cfg.train.init_checkpoint == "model.safetensors"


@pytest.mark.parametrize("name", ["vit_small_patch16_dinov3", "Swin", "ViTDet"])
def test_shapes_alone_can_be_built(name):
    with meta_device():
        model = make_backbone(name)
    assert all(x.is_meta for x in model.parameters())
    shapes = {key: x.shape for key, x in make_backbone(name).state_dict().items()}
    assert shapes == {key: x.shape for key, x in model.state_dict().items()}
