"""Parts of the peers against slow twins and by their geometry."""

import torch
from torch.nn import functional as F
from torch.testing import assert_close

import oracles
from conftest import NUM_CLASSES, make_boxes, make_level, make_predictions, randomize
from samdetr.modeling import DETRCrossAttention, GaussianPrior, HeadAligner, SoftmaxPredictionHead
from samdetr.modeling.attention import split_heads
from samdetr.modeling.postprocessing import detections

DIM, HEADS = 32, 8


def heads(x):
    return split_heads(x, HEADS)


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
