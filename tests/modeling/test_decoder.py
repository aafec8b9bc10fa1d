"""Decoder layer, prediction heads and the way of the reference from layer to layer."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from conftest import (
    VARIANTS,
    assert_gradients_reach_all,
    make_boxes,
    make_level,
    make_model,
    make_pyramid,
    make_queries,
    pad_level,
    randomize,
)
from samdetr.convert import DETR, rename
from samdetr.modeling import Decoder, PredictionHead, SelfAttention
from samdetr.modeling.decoder import DecoderLayer

DIM, QUERIES = 64, 12  # of the models of make_model


def make_decoder(variant="sam_detr", **overrides):
    return randomize(make_model(variant, **overrides).decoder, std=0.15)


def run(decoder, queries=None, level=None):
    queries = queries or make_queries(2, QUERIES, DIM)
    return decoder(queries, [level or make_level(dim=DIM)])


def test_a_detr_layer_equals_torchs_with_the_same_weights():
    twin = nn.TransformerDecoderLayer(DIM, 8, 32, dropout=0.0, batch_first=True)
    randomize(twin)
    layer, prefix = make_model("detr").decoder.layers[0], "transformer.decoder.layers.0."
    layer.load_state_dict(
        {
            rename(prefix + k, DETR).removeprefix("decoder.layers.0."): v
            for k, v in twin.state_dict().items()
        }
    )
    x, level = torch.randn(2, 5, DIM), make_level(dim=DIM)
    level = level._replace(position=torch.zeros_like(level.position))
    out = layer(x, torch.zeros_like(x), make_boxes(), level)
    expected = twin(x, level.tokens, memory_key_padding_mask=level.padding)
    assert_close(out, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_layer_is_figure_2a(variant):
    layer = make_decoder(variant).layers[0]
    x, position = torch.randn(2, 2, 5, DIM)
    boxes, level = make_boxes(), make_level(dim=DIM)
    attended = layer.norm1(x + layer.self_attention(x, position))
    aligned = layer.aligner(attended, position, boxes, level)
    crossed = layer.norm2(attended + layer.cross_attention(aligned, level))
    expected = layer.norm3(crossed + layer.feed_forward(crossed))
    assert_close(layer(x, position, boxes, level), expected)


@pytest.mark.parametrize("variant", VARIANTS)
def test_more_padding_changes_nothing_for_boxes_away_from_it(variant):
    layer, level = make_decoder(variant).layers[0], make_level(8, 9, [(8, 9), (6, 5)], dim=DIM)
    x, position = torch.randn(2, 2, 5, DIM)
    # Within a cell of the border RoIAlign reads the cell beyond, which padding adds.
    boxes = torch.cat([torch.rand(2, 5, 2) * 0.2 + 0.4, torch.rand(2, 5, 2) * 0.3], dim=-1)
    out = layer(x, position, boxes, level)
    assert_close(layer(x, position, boxes, pad_level(level, 3, 2)), out, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_layers_of_a_decoder_follow_its_references(variant):
    decoder, queries, level = make_decoder(variant), make_queries(2, 12, DIM), make_level(dim=DIM)
    predictions = run(decoder, queries, level)
    assert predictions.logits.shape == (3, 2, QUERIES, 5)
    x, reference = queries.content, queries.reference
    for i, layer in enumerate(decoder.layers):
        boxes = reference.sigmoid()
        x = layer(x, decoder.position(boxes), boxes, level)
        head = decoder.heads[min(i, len(decoder.heads) - 1)]
        y = head.norm(x) if variant == "detr" else x
        offset = head.boxes(y)
        assert_close(predictions.logits[i], head.classes(y))
        if variant == "detr":
            assert_close(predictions.boxes[i], offset.sigmoid())
        else:
            reference = reference + offset
            assert_close(predictions.boxes[i], reference.sigmoid(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("variant", ["sam_detr", "sam_detr_smca"])
def test_predictions_start_at_the_reference_with_probability_one_in_a_hundred(variant):
    decoder, queries = make_model(variant).decoder, make_queries(2, QUERIES, DIM)
    for head in decoder.heads:
        nn.init.zeros_(head.classes.weight)
    predictions = run(decoder, queries)
    assert_close(predictions.logits.sigmoid(), torch.full((3, 2, QUERIES, 5), 0.01))
    assert_close(predictions.boxes, queries.reference.sigmoid().expand(3, -1, -1, -1))


def box_gradient(decoder, layer):
    """Gradient of the boxes of one layer by the references of the queries."""
    queries = make_queries(2, QUERIES, DIM)
    queries.reference.requires_grad_()
    boxes = run(decoder, queries).boxes[layer]
    (grad,) = torch.autograd.grad(boxes.sum(), queries.reference, allow_unused=True)
    return torch.zeros_like(queries.reference) if grad is None else grad


def test_the_first_reference_gets_its_gradient_through_the_first_box():
    decoder = make_decoder()
    assert box_gradient(decoder, 0).all()
    assert not box_gradient(decoder, 1).any()
    assert not box_gradient(decoder, 2).any()


def test_with_smca_the_first_reference_hears_of_later_boxes_through_the_gaussian():
    decoder = make_decoder("sam_detr_smca")
    assert box_gradient(decoder, 0).all()
    assert box_gradient(decoder, 2).all()


class LevelOfEachLayer(nn.Module):
    """A layer whose output tells which level it read."""

    def forward(self, x, position, boxes, level, mask):
        return torch.full_like(x, level.size[0])


class Echo(PredictionHead):
    def forward(self, x, reference):
        return x[..., :5], reference, reference


@pytest.mark.parametrize("levels", [[0], [1, 1, 0], [0, 1]])
def test_every_layer_reads_the_level_it_is_told(levels):
    position = make_model("sam_detr").decoder.position
    decoder = Decoder(LevelOfEachLayer(), Echo(DIM, 5), position, levels)
    pyramid = make_pyramid(DIM)
    seen = decoder(make_queries(2, QUERIES, DIM), pyramid).logits[:, 0, 0, 0]
    assert seen.tolist() == [pyramid[level].size[0] for level in levels]


@pytest.mark.parametrize("variant", VARIANTS)
def test_predictions_permute_with_queries_and_images(variant):
    decoder, queries, level = make_decoder(variant), make_queries(2, 12, DIM), make_level(dim=DIM)
    predictions, order = run(decoder, queries, level), torch.randperm(QUERIES)
    flipped = level._replace(
        tokens=level.tokens.flip(0), position=level.position.flip(0), padding=level.padding.flip(0)
    )
    if variant == "detr":
        embedding = decoder.position.embedding.weight
        embedding.data = embedding.data[order]
    permuted = run(decoder, type(queries)(*(x.flip(0)[:, order] for x in queries[:2])), flipped)
    # A last place of the tokens moves these logits, of up to 8, by 8e-5.
    for before, after in zip(predictions, permuted, strict=True):
        assert_close(after, before.flip(1)[:, :, order], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_reach_every_parameter(variant):
    decoder = make_decoder(variant)
    sum(x.sin().sum() for x in run(decoder)).backward()
    assert_gradients_reach_all(decoder)


def test_a_decoder_without_layers_is_an_error():
    decoder = make_model("sam_detr").decoder
    with pytest.raises(ValueError, match="levels is empty"):
        Decoder(decoder.layers[0], PredictionHead(DIM, 5), decoder.position, [])


def test_aligner_and_cross_attention_must_agree_on_the_number_of_keypoints():
    detr, ours = make_model("detr").decoder.layers[0], make_model("sam_detr").decoder.layers[0]
    with pytest.raises(ValueError, match="gives 8 keypoints .* takes 1"):
        DecoderLayer(SelfAttention(DIM, 8), ours.aligner, detr.cross_attention, DIM, 32)
