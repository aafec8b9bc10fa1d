"""Parts of the peers against slow twins and by their geometry."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

import oracles
from conftest import (
    NUM_CLASSES,
    make_aligned,
    make_boxes,
    make_level,
    make_predictions,
    make_targets,
    randomize,
)
from samdetr.modeling import (
    AnchoredQueryPosition,
    ConditionalCrossAttention,
    DABQueryPosition,
    DETRCrossAttention,
    GaussianPrior,
    HeadAligner,
    LocatedCrossAttention,
    PaddingPrior,
    SoftmaxCriterion,
    SoftmaxMatcher,
    SoftmaxPredictionHead,
)
from samdetr.modeling.attention import split_heads
from samdetr.modeling.postprocessing import detections
from samdetr.structures import Predictions

DIM, HEADS = 32, 8


def heads(x):
    return split_heads(x, HEADS)


@pytest.mark.parametrize("kind", [ConditionalCrossAttention, LocatedCrossAttention])
def test_scores_are_those_of_contents_plus_those_of_places(kind):
    attention = randomize(kind(DIM, HEADS, PaddingPrior()))
    level, aligned = make_level(), make_aligned(num_points=1)
    position, target = torch.randn(2, 2, 5, DIM)
    place = torch.cat([position, target], dim=-1)[:, :, None]
    found = attention(aligned._replace(position=place), level)

    query, key = attention.query_content(aligned.content[:, :, 0]), attention.key_content(level[0])
    spatial = attention.key_position(level.position)
    if kind is LocatedCrossAttention:
        query, key = query + attention.query_position(position), key + spatial
    target = heads(attention.query_target(target))
    bias = torch.zeros(2, 1, 1, 35).masked_fill(level.padding[:, None, None], -math.inf)
    bias = bias + target @ heads(spatial).transpose(2, 3) / math.sqrt(2 * DIM / HEADS)
    value = heads(attention.value(level.tokens))
    scale = math.sqrt(0.5)  # of a head with twice the channels
    expected = oracles.attention(heads(query) * scale, heads(key), value, bias)
    expected = attention.output(expected.transpose(1, 2).flatten(2))
    assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_a_dab_target_is_the_embedded_centre_over_the_relative_size_of_each_axis():
    position, boxes, x = randomize(DABQueryPosition(DIM)), make_boxes(), torch.randn(2, 5, DIM)
    found = position.target(x, boxes)

    size = position.size(x).sigmoid()
    for b in range(2):
        for n in range(5):
            cx, cy, w, h = boxes[b, n].tolist()
            expected = torch.tensor(oracles.sine_embedding(cx, cy, DIM))
            expected[: DIM // 2] *= size[b, n, 1] / h
            expected[DIM // 2 :] *= size[b, n, 0] / w
            assert_close(found[b, n], expected, atol=1e-4, rtol=1e-4)


def test_anchors_are_points_of_their_queries_with_boxes_of_half_the_image():
    position = AnchoredQueryPosition(num_queries=5, dim=DIM, num_layers=3)
    anchors = position.anchors(torch.randn(2, 5, 4))
    assert_close(anchors[0, :, :2], position.anchor(position.embedding.weight))
    assert torch.equal(anchors[0], anchors[1]) and not anchors[..., 2:].any()
    assert len([x for x in position.anchor if isinstance(x, nn.Linear)]) == 3


def aligned_heads():
    aligner, level = randomize(HeadAligner(DIM, HEADS)), make_level()
    x, position = torch.randn(2, 2, 5, DIM)
    boxes = make_boxes()
    return aligner, level, x, position, boxes


def test_every_head_looks_around_the_anchor_at_an_offset_in_cells():
    aligner, level, x, position, boxes = aligned_heads()
    aligned = aligner(x, position, boxes, level)
    offset = aligner.offset(aligner.norm(x + position)).view(2, 5, HEADS, 2)
    for image in range(2):
        width, height = oracles.valid_cells(level, image)
        cells = aligned.points[image] * torch.tensor([width, height])
        centre = boxes[image, :, None, :2] * torch.tensor([width, height])
        assert_close(cells - centre, offset[image], atol=1e-5, rtol=1e-5)


def test_modulated_attention_is_ordinary_attention_with_the_log_of_gaussians_added():
    aligner, level, x, position, boxes = aligned_heads()
    prior = randomize(GaussianPrior(DIM, HEADS))
    attention = randomize(DETRCrossAttention(DIM, HEADS, prior))
    aligned = aligner(x, position, boxes, level)
    found = attention(aligned, level)

    scale = prior.scale(aligner.norm(x + position)).view(2, 5, HEADS, 2)
    bias = oracles.gaussian_bias(aligned.points, scale, level, 8.0)
    queries, keys, values = (
        heads(F.linear(y, weight, offset))
        for y, weight, offset in zip(
            (x + position, level.tokens + level.position, level.tokens),
            attention.in_proj.weight.chunk(3),
            attention.in_proj.bias.chunk(3),
        )
    )
    expected = oracles.attention(queries, keys, values, bias)
    expected = attention.output(expected.transpose(1, 2).flatten(2))
    assert_close(found, expected, atol=1e-5, rtol=1e-4)


def with_nothing(predictions):
    """Predictions with a logit for "no object"."""
    logits = predictions.logits
    return predictions._replace(logits=torch.cat([logits, torch.randn_like(logits[..., :1])], -1))


def test_softmax_detections_are_the_likeliest_class_of_every_query():
    predictions, size = with_nothing(make_predictions()), (40, 60)
    head = SoftmaxPredictionHead(DIM, NUM_CLASSES)
    probability = predictions.logits[-1].softmax(-1)[..., :-1]
    best, classes = probability.max(-1)
    for image, found in enumerate(detections(predictions, [size] * 2, 6, head.scores)):
        order = best[image].argsort(descending=True)
        assert_close(found.scores, best[image][order])
        assert torch.equal(found.pred_classes, classes[image][order])


@pytest.mark.parametrize("counts", [(3, 1), (0, 2), (0, 0)])
def test_cross_entropy_is_torchs_weighted_mean_in_every_layer(counts):
    predictions, targets = with_nothing(make_predictions()), make_targets(counts)
    criterion = SoftmaxCriterion(SoftmaxMatcher(), class_weight=1.5, nothing_weight=0.3)
    losses = criterion(predictions, targets)

    layer, image, query, target = criterion.matcher(predictions, targets)
    labels = torch.full(predictions.logits.shape[:3], NUM_CLASSES)
    labels[layer, image, query] = targets.labels[image, target]
    weight = torch.tensor([1.0] * NUM_CLASSES + [0.3])
    for i, name in enumerate(("loss_ce_0", "loss_ce_1", "loss_ce")):
        logits = predictions.logits[i].flatten(0, 1)
        expected = 1.5 * F.cross_entropy(logits, labels[i].flatten(), weight)
        assert_close(losses[name], expected)


def test_matching_costs_less_where_the_class_is_likely():
    logits = torch.randn(1, 1, 4, NUM_CLASSES + 1)
    boxes = torch.full((1, 1, 4, 4), 0.5)
    targets = make_targets((1,))
    cost = SoftmaxMatcher().cost(Predictions(logits, boxes), targets)[0, 0, :, 0]
    probability = logits[0, 0].softmax(-1)[:, targets.labels[0, 0]]
    assert_close(cost + probability, (cost + probability)[:1].expand(4))
