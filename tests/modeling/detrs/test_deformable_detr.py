"""Deformable DETR: its parts, and the numbers of the package `transformers` for its weights."""

from __future__ import annotations

import copy

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from torch import nn
from torch.testing import assert_close
from torchvision.models import resnet50

from conftest import (
    MODELS,
    assert_gradients_reach_all,
    make_batch,
    make_boxes,
    make_pyramid,
    randomize,
    randomize_statistics,
)
from samdetr.convert import hf_deformable_to_samdetr
from samdetr.modeling import (
    BoxAligner,
    BoxDeformableCrossAttention,
    DecoderLayer,
    DeformableCrossAttention,
    DeformableDecoder,
    DETRSelfAttention,
    ExtraLevelMapper,
    LearnedContent,
    LearnedQueryPosition,
    PointPredictionHead,
    RefiningPredictionHead,
    SinePosition,
)

DIM, HIDDEN, QUERIES, CLASSES = 64, 48, 12, 5
PARAMETERS = {"deformable_detr": 40, "deformable_detr_refine": 41}


def load_model(name):
    return LazyConfig.load(str(MODELS / f"{name}.py")).model


def make_layer(attention=DeformableCrossAttention):
    cross_attention = attention(32, num_heads=4, num_levels=2, num_points=3)
    return DecoderLayer(DETRSelfAttention(32, 4), BoxAligner(), cross_attention, 32, 48)


def make_decoder():
    position = LearnedQueryPosition(6, 32)
    return DeformableDecoder(make_layer(), PointPredictionHead(32, CLASSES), position, 32, 2)


def make_refining_decoder():
    layer, head = make_layer(BoxDeformableCrossAttention), RefiningPredictionHead(32, CLASSES)
    return DeformableDecoder(layer, head, LearnedQueryPosition(6, 32), 32, 3, make_layer())


DECODERS = pytest.mark.parametrize("make", [make_decoder, make_refining_decoder])


def make_neck(norm=""):
    return ExtraLevelMapper({"fine": 6, "coarse": 10}, 32, SinePosition(32), norm)


def make_features():
    return {"fine": torch.randn(2, 6, 10, 14), "coarse": torch.randn(2, 10, 5, 7)}


def make_padding():
    padding = torch.ones(2, 80, 112, dtype=torch.bool)
    padding[0], padding[1, :40, :60] = False, False
    return padding


def test_the_extra_level_is_a_strided_convolution_of_the_coarsest_map():
    neck, features = make_neck(), make_features()
    levels = neck(features, make_padding())
    assert [level.size for level in levels] == [(10, 14), (5, 7), (3, 4)]
    weight, bias = neck.projections[2][0].parameters()
    padded = nn.functional.pad(features["coarse"], (1, 2, 1, 2))
    for row in range(3):
        for column in range(4):
            patch = padded[:, :, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
            expected = torch.einsum("dcyx,bcyx->bd", weight, patch) + bias
            assert_close(levels[2].map[:, :, row, column], expected, atol=1e-5, rtol=1e-5)


def test_the_extra_level_has_padding_position_and_embedding_of_its_own():
    neck = make_neck()
    level = neck(make_features(), make_padding())[2]
    padding = level.padding.unflatten(1, level.size)
    assert not padding[0].any()
    inside = torch.zeros(3, 4, dtype=torch.bool)
    inside[:2, :3] = True  # 40 of 80 rows and 60 of 112 columns, by the first pixel of each cell
    assert padding[1].equal(~inside)
    assert_close(level.position, neck.position(padding) + neck.level_embedding.weight[2])


def test_points_are_cells_away_from_a_centre_whatever_the_size_of_the_box():
    attention, levels = DeformableCrossAttention(32, 4, 2, 3), make_pyramid()
    boxes = make_boxes()[:, :, None].expand(-1, -1, 2, -1)
    offsets = torch.randn(2, 5, 4, 2, 3, 2)
    places = attention.locate(boxes, offsets, levels)
    for i, (height, width) in enumerate([(6, 8), (3, 4)]):
        moved = (places[:, :, :, i] - boxes[:, :, None, None, 0, :2]) * torch.tensor(
            [width, height]
        )
        assert_close(moved, offsets[:, :, :, i], atol=1e-5, rtol=1e-5)


def test_with_boxes_the_last_point_of_each_head_starts_on_the_rim():
    attention, levels = BoxDeformableCrossAttention(32, 4, 2, 3), make_pyramid()
    boxes = make_boxes()[:, :, None].expand(-1, -1, 2, -1)
    offsets = attention.offsets(torch.randn(2, 5, 32)).unflatten(-1, (4, 2, 3, 2))
    places = attention.locate(boxes, offsets, levels)
    for head, direction in enumerate([(1, 0), (0, 1), (-1, 0), (0, -1)]):
        rim = boxes[..., :2] + boxes[..., 2:] / 2 * torch.tensor(direction)
        assert_close(places[:, :, head, :, 2], rim, atol=1e-5, rtol=0)


@DECODERS
def test_gradients_reach_every_parameter_of_the_decoder(make):
    decoder, queries = randomize(make()), LearnedContent(6, 32)
    predictions = decoder(queries(make_pyramid()), make_pyramid())
    (predictions.logits.sin().sum() + predictions.boxes.sin().sum()).backward()
    assert_gradients_reach_all(decoder)
    assert_gradients_reach_all(queries)


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_as_many_as_in_the_paper(name):
    with torch.device("meta"):
        model = instantiate(load_model(name))
    assert round(sum(x.numel() for x in model.parameters()) / 1e6) == PARAMETERS[name]


def make_original(refine, single=False):
    """A random model of transformers, whose heads differ where the layers do not share one."""
    transformers = pytest.importorskip("transformers")
    stages = ["stage4"] if single else ["stage2", "stage3", "stage4"]
    config = transformers.DeformableDetrConfig(
        backbone_config=transformers.ResNetConfig(out_features=stages),
        num_feature_levels=1 if single else 4,
        d_model=DIM,
        encoder_layers=2,
        encoder_ffn_dim=HIDDEN,
        decoder_layers=3,
        decoder_ffn_dim=HIDDEN,
        num_queries=QUERIES,
        num_labels=CLASSES,
        with_box_refine=refine,
        auxiliary_loss=True,
    )
    original = transformers.DeformableDetrForObjectDetection(config).eval()
    if refine:  # the package ties them in a new model
        original.bbox_embed = nn.ModuleList(copy.deepcopy(x) for x in original.bbox_embed)
        original.class_embed = nn.ModuleList(copy.deepcopy(x) for x in original.class_embed)
        original.model.decoder.bbox_embed = original.bbox_embed
    for name, module in original.named_children():
        parts = [x for k, x in module.named_children() if k != "backbone"]
        for part in parts if name == "model" else [module]:
            randomize(part, std=0.1)
    nn.init.normal_(original.model.level_embed)
    return randomize_statistics(original)


def make_ours(refine, single=False):
    name = "deformable_detr_refine" if refine else "deformable_detr"
    config = load_model("../../coco/deformable_detr_r50_ss_12ep" if single else name)
    config.neck.dim = DIM
    config.encoder.num_layers, config.decoder.num_layers = 2, 3
    for layer in (config.encoder.layer, config.decoder.layer, config.decoder.get("first_layer")):
        if layer is not None:
            layer.hidden_dim = HIDDEN
    config.num_classes, config.num_queries = CLASSES, QUERIES
    return instantiate(config).eval()


def published(state, refine):
    """The state dict as published files have it: other names, timm's backbone, no copies."""
    backbone = "model.backbone.conv_encoder.model."
    with torch.device("meta"):
        body = resnet50().state_dict()
    copies = ("bbox_embed.",) if refine else ("bbox_embed.1", "bbox_embed.2", "class_embed.1")
    rest = {k: v for k, v in state.items() if not k.startswith(("model.backbone.", *copies))}
    return {
        **{backbone + k: v for k, v in body.items() if not k.startswith("fc.")},
        **{k.replace(".o_proj.", ".out_proj.").replace(".mlp.", "."): v for k, v in rest.items()},
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("refine", "single"),
    [(False, False), (True, False), (False, True)],
    ids=["points", "boxes", "one level"],
)
def test_weights_of_transformers_give_its_logits_and_boxes_of_every_layer(refine, single):
    original, ours = make_original(refine, single), make_ours(refine, single)
    state = original.state_dict()
    ours.load_state_dict(hf_deformable_to_samdetr(state))
    images, padding = ours.batch(make_batch(((96, 130), (64, 150)), (0, 0)))
    labels = [dict(class_labels=torch.tensor([0]), boxes=torch.full((1, 4), 0.5))] * 2

    with torch.no_grad():
        wanted = original(images.tensor, pixel_mask=(~padding).long(), labels=labels)
        pyramid = ours.encoder(ours.neck(ours.backbone(images.tensor), padding))
        predictions = ours.decoder(ours.queries(pyramid), pyramid)

    layers = [*wanted.auxiliary_outputs, {"logits": wanted.logits, "pred_boxes": wanted.pred_boxes}]
    assert len(layers) == 3
    for logits, boxes, layer in zip(*predictions, layers, strict=True):
        assert_close(logits, layer["logits"], atol=1e-4, rtol=0)
        assert_close(boxes, layer["pred_boxes"], atol=5e-5, rtol=0)
        assert boxes.std(1).min() > 1e-2  # queries differ, so the comparison says something


@pytest.mark.slow
@pytest.mark.parametrize("refine", [False, True], ids=["points", "boxes"])
def test_weights_of_published_files_get_the_same_names(refine):
    state, wanted = make_original(refine).state_dict(), make_ours(refine).state_dict()
    converted = hf_deformable_to_samdetr(published(state, refine))
    assert {k: v.shape for k, v in converted.items()} == {k: v.shape for k, v in wanted.items()}


@pytest.mark.parametrize("missing", ["query_position_embeddings", "reference_points"])
def test_other_weights_are_refused_by_the_name_that_is_missing(missing):
    names = ["model.query_position_embeddings.weight", "model.reference_points.weight"]
    state = {name: torch.zeros(2, 4) for name in names if missing not in name}
    with pytest.raises(ValueError, match=f"not a one-stage Deformable DETR .* model.{missing}"):
        hf_deformable_to_samdetr(state)
