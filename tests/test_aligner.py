"""The Semantics Aligner: where its keypoints lie and how its gates weight."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from conftest import assert_gradients_reach_all, make_boxes, make_level, randomize
from samdetr.modeling import (
    Gate,
    KeypointResampler,
    NoAligner,
    RoIAlignPooler,
    SemanticsAligner,
    SeparablePooler,
)
from samdetr.modeling.position import sine_embedding

DIM, POINTS = 32, 4


def make_aligner(pooler=RoIAlignPooler):
    resampler = KeypointResampler(DIM, POINTS, region_size=3, reduced_dim=8, hidden_dims=(16, 16))
    return SemanticsAligner(pooler(3), resampler, Gate(DIM, POINTS), Gate(DIM, POINTS))


def make_inputs():
    x, position = torch.randn(2, 2, 5, DIM)
    return x, position, make_boxes(), make_level(dim=DIM)


def test_a_gate_of_zero_weights_halves_every_channel():
    gate, features, x = Gate(DIM, POINTS), torch.randn(2, 5, POINTS, DIM), torch.randn(2, 5, DIM)
    for parameter in gate.parameters():
        nn.init.zeros_(parameter)
    assert_close(gate(features, x), 0.5 * features)


def test_a_gate_weights_every_channel_of_every_keypoint_by_the_query():
    gate, features, x = Gate(DIM, POINTS), torch.randn(2, 5, POINTS, DIM), torch.randn(2, 5, DIM)
    weight, bias = gate.coefficients.weight.split(DIM), gate.coefficients.bias.split(DIM)
    for point in range(POINTS):
        expected = features[:, :, point] * (x @ weight[point].T + bias[point]).sigmoid()
        assert_close(gate(features, x)[:, :, point], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pooler", [RoIAlignPooler, SeparablePooler])
def test_points_are_the_keypoints_of_the_region_inside_their_box(pooler):
    aligner, (x, position, boxes, level) = randomize(make_aligner(pooler)), make_inputs()
    aligned = aligner(x, position, boxes, level)
    offset = (aligned.points - boxes[:, :, None, :2]) / (boxes[:, :, None, 2:] / 2)
    assert offset.abs().max() <= 1 + 1e-4
    keypoints = aligner.resampler(aligner.pooler(boxes, level)).keypoints
    assert_close(offset, keypoints, atol=1e-4, rtol=1e-4)


def test_content_and_position_are_gated_features_and_gated_embeddings_of_the_points():
    aligner, (x, position, boxes, level) = randomize(make_aligner()), make_inputs()
    aligned = aligner(x, position, boxes, level)
    samples = aligner.resampler(aligner.pooler(boxes, level))
    embedding = sine_embedding(aligned.points, DIM)
    assert_close(aligned.content, aligner.content_gate(samples.features, x))
    assert_close(aligned.position, aligner.position_gate(embedding, x))
    assert_close(aligned.descriptor, samples.descriptor)


def test_new_queries_do_not_depend_on_the_old_positions():
    aligner, (x, position, boxes, level) = make_aligner(), make_inputs()
    for old, new in zip(
        aligner(x, position, boxes, level), aligner(x, -position, boxes, level), strict=True
    ):
        assert torch.equal(old, new)


def test_boxes_get_their_gradient_through_the_points_alone():
    aligner, (x, position, boxes, level) = make_aligner(), make_inputs()
    boxes.requires_grad_()
    aligned = aligner(x, position, boxes, level)
    (grad,) = torch.autograd.grad(aligned.points.sum(), boxes, retain_graph=True)
    keypoints = aligner.resampler(aligner.pooler(boxes, level)).keypoints
    assert_close(grad[..., :2], torch.full((2, 5, 2), float(POINTS)))
    assert_close(grad[..., 2:], keypoints.sum(2) / 2)
    for part in (aligned.content, aligned.position, aligned.descriptor):
        (grad,) = torch.autograd.grad(part.sum(), boxes, retain_graph=True, allow_unused=True)
        assert grad is None or not grad.any()


@pytest.mark.parametrize("make", [make_aligner, NoAligner])
def test_queries_and_images_are_aligned_one_by_one(make):
    aligner, (x, position, boxes, level) = make(), make_inputs()
    order = torch.randperm(5)
    whole = aligner(x, position, boxes, level)
    level = level._replace(tokens=level.tokens.flip(0), padding=level.padding.flip(0))
    permuted = aligner(*(y.flip(0)[:, order] for y in (x, position, boxes)), level)
    for before, after in zip(whole, permuted, strict=True):
        assert_close(after, before.flip(0)[:, order], atol=1e-5, rtol=1e-5)


def test_without_aligner_queries_pass_as_they_are_at_the_centre_of_their_box():
    x, position, boxes, level = make_inputs()
    aligned = NoAligner()(x, position, boxes, level)
    assert torch.equal(aligned.content, x[:, :, None])
    assert torch.equal(aligned.position, position[:, :, None])
    assert torch.equal(aligned.points, boxes[:, :, None, :2])
    assert torch.equal(aligned.descriptor, x)


def test_gradients_reach_every_parameter_and_the_features():
    aligner, (x, position, boxes, level) = make_aligner(), make_inputs()
    level.tokens.requires_grad_()
    aligned = aligner(x, position, boxes, level)
    sum(part.sin().sum() for part in aligned).backward()
    assert_gradients_reach_all(aligner)
    assert level.tokens.grad.any()
