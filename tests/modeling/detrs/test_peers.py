"""The peers are those of the package `transformers`: its weights, converted, give its outputs."""

from __future__ import annotations

import re
from copy import copy
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import LazyConfig, instantiate
from detectron2.modeling.backbone.resnet import BasicStem, BottleneckBlock, ResNet
from torch import nn
from torch.testing import assert_close
from torchvision.models import resnet50

from command_line import run_script
from conftest import MODELS, NUM_CLASSES, make_batch, randomize, randomize_statistics
from samdetr import convert
from samdetr.checkpoint import Checkpointer
from samdetr.modeling import LocatedCrossAttention, PatternReference

pytestmark = pytest.mark.slow
transformers = pytest.importorskip("transformers")

ROOT = Path(__file__).parents[3]
DIM, HIDDEN, QUERIES, DEPTH = 64, 48, 12, 3
WIDTHS = (16, 24, 32, 40)  # of the backbone's stages
SIZES = ((96, 130), (70, 64))  # so both images are padded
COMMON = dict(
    encoder_layers=2, decoder_layers=DEPTH, encoder_ffn_dim=HIDDEN, decoder_ffn_dim=HIDDEN
)
PEERS = {
    "detr_softmax": ("Detr", convert.hf_detr_to_samdetr, dict(d_model=DIM)),
    "conditional_detr": (
        "ConditionalDetr",
        convert.hf_conditional_to_samdetr,
        dict(d_model=DIM),
    ),
    "dab_detr": ("DabDetr", convert.hf_dab_to_samdetr, dict(hidden_size=DIM)),
}
SUBCOMMANDS = {
    "detr_softmax": "hf-detr",
    "conditional_detr": "hf-conditional",
    "dab_detr": "hf-dab",
}
PARAMETERS = {  # millions in tables 1 and 2, of the peers that the package has not
    "smca_detr_r50_12ep": 42,
    "dn_detr_r50_dc5_12ep": 44,
}


def make_original(peer: str, std: float = 0.2, **overrides) -> nn.Module:
    """The package's model with random weights everywhere."""
    name, _, width = PEERS[peer]
    backbone = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=WIDTHS, depths=(1, 2, 1, 1), out_features=["stage4"]
    )
    settings = dict(num_queries=QUERIES, num_labels=NUM_CLASSES, backbone_config=backbone)
    config = getattr(transformers, f"{name}Config")(**settings, **COMMON, **width, **overrides)
    model = getattr(transformers, f"{name}ForObjectDetection")(config)
    randomize(model, std)
    randomize_statistics(model.model.backbone)
    return model.eval()


def make_stages() -> list:
    """Stages of Detectron2's ResNet with the sizes of `make_original`."""
    channels = (8, *WIDTHS)
    return [
        ResNet.make_stage(
            BottleneckBlock,
            depth,
            stride_per_block=[1 if i == 0 else 2] + [1] * (depth - 1),
            in_channels=channels[i],
            out_channels=channels[i + 1],
            bottleneck_channels=channels[i + 1] // 4,
            stride_in_1x1=False,
            norm="FrozenBN",
        )
        for i, depth in enumerate((1, 2, 1, 1))
    ]


def make_ours(peer: str, cross_attention: type | None = None, patterns: int = 0) -> nn.Module:
    """Our model, with another cross-attention after the first layer or patterns if given."""
    config = LazyConfig.load(str(MODELS / f"{peer}.py")).model
    config.backbone.stem = L(BasicStem)(in_channels=3, out_channels=8, norm="FrozenBN")
    config.backbone.stages = L(make_stages)()
    config.neck.in_channels = dict(res5=WIDTHS[-1])
    config.neck.dim = DIM
    config.encoder.num_layers = 2
    config.encoder.layer.hidden_dim = config.decoder.layer.hidden_dim = HIDDEN
    config.decoder.levels = [0] * DEPTH
    config.num_classes, config.num_queries = NUM_CLASSES, QUERIES
    if cross_attention is not None:
        config.decoder.layer.cross_attention._target_ = cross_attention
    if patterns:
        config.queries.update(_target_=PatternReference, num_patterns=patterns)
        config.num_queries = patterns * QUERIES
    return instantiate(config).eval()


def first_layers(original: nn.Module, depth: int) -> nn.Module:
    """The same model with fewer decoder layers: not every one tells what its earlier layers say."""
    model = copy(original)
    model._modules = {**model._modules, "model": copy(original.model)}
    decoder = copy(original.model.decoder)
    model.model._modules = {**original.model._modules, "decoder": decoder}
    decoder._modules = {**decoder._modules, "layers": decoder.layers[:depth]}
    decoder.num_layers = depth
    return model


def predict(ours: nn.Module, batch: list[dict]):
    """Images, mask of the package, and predictions of ours."""
    images, padding = ours.batch(batch)
    with torch.no_grad():
        pyramid = ours.encoder(ours.neck(ours.backbone(images.tensor), padding))
        predictions = ours.decoder(ours.queries(pyramid), pyramid)
    return images.tensor, (~padding).long(), predictions


@pytest.fixture(scope="module", params=PEERS)
def peer(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def original(peer) -> nn.Module:
    torch.manual_seed(0)
    return make_original(peer)


def test_weights_of_the_package_give_its_outputs_of_every_layer(peer, original):
    ours = make_ours(peer)
    ours.load_state_dict(PEERS[peer][1](original.state_dict()), strict=True)
    images, mask, predictions = predict(ours, make_batch(SIZES, (0, 0)))

    for depth in range(1, DEPTH + 1):
        with torch.no_grad():
            wanted = first_layers(original, depth)(pixel_values=images, pixel_mask=mask)
        assert_close(predictions.logits[depth - 1], wanted.logits, atol=1e-4, rtol=0)
        assert_close(predictions.boxes[depth - 1], wanted.pred_boxes, atol=5e-5, rtol=0)
    boxes = predictions.boxes
    assert boxes.std(2).amax(-1).min() > 1e-3  # queries differ, so the comparison says something
    assert (boxes[:, 0] - boxes[:, 1]).abs().max() > 1e-2  # and so do images
    assert (boxes[1:] - boxes[:-1]).abs().max() > 1e-2  # and layers


@pytest.mark.parametrize(
    ("setting", "arguments"),
    [
        (dict(keep_query_pos=True), dict(cross_attention=LocatedCrossAttention)),
        (dict(num_patterns=3), dict(patterns=3)),
    ],
    ids=["positions in all layers", "patterns"],
)
def test_options_of_dab_detr_are_other_modules(setting, arguments):
    original = make_original("dab_detr", **setting)
    ours = make_ours("dab_detr", **arguments)
    ours.load_state_dict(convert.hf_dab_to_samdetr(original.state_dict()), strict=True)
    images, mask, predictions = predict(ours, make_batch(SIZES, (0, 0)))
    with torch.no_grad():
        wanted = original(pixel_values=images, pixel_mask=mask)
    assert_close(predictions.logits[-1], wanted.logits, atol=1e-4, rtol=0)
    assert_close(predictions.boxes[-1], wanted.pred_boxes, atol=5e-5, rtol=0)


def test_losses_and_gradients_are_those_of_the_package(peer):
    # With it the first two norm what they pass to the next layer, which no release of theirs did.
    # Smaller weights than above: gradients of the larger ones are a matter of rounding.
    torch.manual_seed(0)
    original = make_original(peer, std=0.1, auxiliary_loss=peer == "dab_detr")
    ours = make_ours(peer).train()
    ours.load_state_dict(PEERS[peer][1](original.state_dict()), strict=True)
    torch.manual_seed(0)
    batch = make_batch(SIZES, (3, 1))
    losses = ours(batch)

    images, padding = ours.batch(batch)
    wanted = original(
        pixel_values=images.tensor, pixel_mask=(~padding).long(), labels=as_labels(ours, batch)
    ).loss_dict
    weights = {k: ours.criterion.weights[re.sub(r"_\d$", "", k)] for k in losses}
    compared = [name for name in losses if name in wanted]
    assert {"loss_ce", "loss_bbox", "loss_giou"} <= set(compared)
    for name in compared:
        expected = weights[name] * wanted[name].item()
        assert losses[name].item() == pytest.approx(expected, rel=1e-4), name

    sum(losses[name] for name in compared).backward()
    sum(weights[name] * wanted[name] for name in compared).backward()
    expected = gradients(original, peer)
    for name, x in ours.named_parameters():
        if not name.startswith("backbone."):  # the package freezes its own ResNet, all of it
            difference = (x.grad - expected[name]).norm()
            assert difference <= 1e-4 * expected[name].norm() + 1e-5, name


def as_labels(ours: nn.Module, batch: list[dict]) -> list[dict]:
    """Ground truth as the package takes it."""
    targets = ours.targets(batch)
    return [
        {"class_labels": targets.labels[i, :n], "boxes": targets.boxes[i, :n]}
        for i, n in enumerate(targets.counts)
    ]


def gradients(original: nn.Module, peer: str) -> dict:
    """Gradients of the package's model under our names, zeros where there are none."""
    parameters = dict(original.named_parameters(remove_duplicate=False))
    found = {name: getattr(parameters.get(name), "grad", None) for name in original.state_dict()}
    zeros = {name: torch.zeros_like(x) for name, x in original.state_dict().items()}
    return PEERS[peer][1]({k: zeros[k] if x is None else x for k, x in found.items()})


def convert_checkpoint(*arguments: str | Path) -> int:
    return run_script("tools/convert_checkpoint.py", *arguments)


@pytest.mark.parametrize("kind", ["folder", "safetensors", "bin"])
def test_saved_model_is_converted_for_the_strict_checkpointer(peer, original, kind, tmp_path):
    original.save_pretrained(tmp_path / "saved")  # under the names of published files
    source = tmp_path / "saved"
    if kind == "safetensors":
        source = source / "model.safetensors"
    if kind == "bin":
        (source / "model.safetensors").unlink()
        torch.save(original.state_dict(), source / "pytorch_model.bin")
    assert convert_checkpoint(SUBCOMMANDS[peer], source, tmp_path / "ours.pth") == 0

    model = make_ours(peer)
    Checkpointer(model).load(str(tmp_path / "ours.pth"))

    wanted = PEERS[peer][1](original.state_dict())
    assert model.state_dict().keys() == wanted.keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, wanted[name]), name


def test_missing_and_unknown_weights_are_errors(peer, original, tmp_path, capsys):
    function = PEERS[peer][1]
    with pytest.raises(ValueError, match=r"not a .* of transformers: .* is missing"):
        function({"weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="unknown parts: model.unknown.weight"):
        function({**original.state_dict(), "model.unknown.weight": torch.zeros(1)})
    assert convert_checkpoint(SUBCOMMANDS[peer], tmp_path, tmp_path / "ours.pth") == 2
    assert "has no model.safetensors or pytorch_model.bin" in capsys.readouterr().err


@pytest.mark.parametrize("prefix", ["conv_encoder.model.", "model._backbone."])
def test_timms_backbone_fills_a_resnet50(prefix):
    with torch.device("meta"):
        names = [name for name in resnet50().state_dict() if not name.startswith("fc.")]
        config = LazyConfig.load(str(MODELS / "detr.py")).model
        backbone = instantiate(config.backbone)
    state = {f"model.backbone.{prefix}{name}": torch.zeros(1) for name in names}
    needed = {"model.query_refpoint_embeddings.weight": torch.zeros(1)}

    found = convert.hf_dab_to_samdetr({**state, **needed})

    assert {f"backbone.{name}" for name in backbone.state_dict()} == found.keys() - {
        "queries.reference.weight"
    }


def parameters(config: str) -> int:
    """Trainable parameters of a config with the 91 classes of the original models."""
    cfg = LazyConfig.load(str(ROOT / "configs" / "coco" / f"{config}.py"))
    cfg.model.num_classes = 91
    with torch.device("meta"):
        model = instantiate(cfg.model)
    return sum(x.numel() for x in model.parameters() if x.requires_grad)


@pytest.mark.parametrize("config", PARAMETERS)
def test_parameters_are_those_of_the_tables_to_the_million(config):
    assert abs(parameters(config) / 1e6 - PARAMETERS[config]) < 1


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ("detr_softmax_r50_50ep", "Detr"),
        ("conditional_detr_r50_12ep", "ConditionalDetr"),
        ("dab_detr_r50_dc5_12ep", "DabDetr"),
    ],
)
def test_parameters_are_exactly_those_of_the_package(config, name):
    backbone = transformers.ResNetConfig(out_features=["stage4"])  # a ResNet-50
    settings = getattr(transformers, f"{name}Config")(num_labels=91, backbone_config=backbone)
    with torch.device("meta"):
        original = getattr(transformers, f"{name}ForObjectDetection")(settings)
    frozen = re.compile(r"(conv_encoder|backbone)\.model\.(embedder|encoder\.stages\.0)\.")
    counted = [x for k, x in original.named_parameters() if not frozen.search(k)]
    assert parameters(config) == sum(x.numel() for x in counted)
