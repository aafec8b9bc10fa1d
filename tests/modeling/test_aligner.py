"""The Semantics Aligner: where its keypoints lie and how its gates weight."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from conftest import assert_gradients_reach_all, make_boxes, make_level, randomize
from samdetr.modeling import (
    AverageResampler,
    Gate,
    GatherPooler,
    ImageKeypointResampler,
    KeypointResampler,
    MaxResampler,
    NoAligner,
    OpenGate,
    RoIAlignPooler,
    SemanticsAligner,
    SeparablePooler,
)
from samdetr.modeling.position import sine_embedding

DIM, POINTS = 32, 4
RESAMPLERS = [KeypointResampler, ImageKeypointResampler, AverageResampler, MaxResampler]


def make_aligner(pooler=RoIAlignPooler, resampler=KeypointResampler):
    if resampler in (AverageResampler, MaxResampler):
        return SemanticsAligner(pooler(3), resampler(), Gate(DIM, 1), Gate(DIM, 1))
    resampler = resampler(DIM, POINTS, region_size=3, reduced_dim=8, hidden_dims=(16, 16))
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


def test_an_open_gate_is_the_identity_and_has_no_weights():
    features = torch.randn(2, 5, POINTS, DIM)
    assert torch.equal(OpenGate()(features, torch.randn(2, 5, DIM)), features)
    assert not [*OpenGate().parameters()]


@pytest.mark.parametrize("pooler", [RoIAlignPooler, SeparablePooler, GatherPooler])
def test_points_lie_inside_their_box(pooler):
    aligner, (x, position, boxes, level) = randomize(make_aligner(pooler)), make_inputs()
    aligned = aligner(x, position, boxes, level)
    offset = (aligned.points - boxes[:, :, None, :2]) / (boxes[:, :, None, 2:] / 2)
    assert offset.abs().max() <= 1 + 1e-4


@pytest.mark.parametrize("kind", RESAMPLERS)
def test_content_and_position_are_gated_features_and_gated_embeddings_of_the_points(kind):
    aligner = randomize(make_aligner(resampler=kind))
    x, position, boxes, level = make_inputs()
    aligned = aligner(x, position, boxes, level)
    samples = aligner.resampler(aligner.pooler(boxes, level), boxes, level)
    embedding = sine_embedding(samples.points, DIM)
    assert_close(aligned.content, aligner.content_gate(samples.features, x))
    assert_close(aligned.position, aligner.position_gate(embedding, x))
    assert_close(aligned.points, samples.points)
    assert_close(aligned.descriptor, samples.descriptor)


def test_open_gates_leave_features_and_embeddings_as_they_are():
    resampler, (x, position, boxes, level) = MaxResampler(), make_inputs()
    aligner = SemanticsAligner(RoIAlignPooler(3), resampler, OpenGate(), OpenGate())
    content, position, points, _ = aligner(x, position, boxes, level)
    assert torch.equal(content, resampler(aligner.pooler(boxes, level), boxes, level).features)
    assert torch.equal(position, sine_embedding(points, DIM))


def test_parts_that_do_not_fit_together_are_an_error():
    resampler = KeypointResampler(DIM, POINTS, region_size=3)
    with pytest.raises(ValueError, match="position_gate.num_points is 8, .* gives 4 keypoints"):
        SemanticsAligner(RoIAlignPooler(3), resampler, OpenGate(), Gate(DIM, 8))
    with pytest.raises(ValueError, match="7 x 7 bins, but the resampler takes region_size=3"):
        SemanticsAligner(RoIAlignPooler(7), resampler, OpenGate(), OpenGate())


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
    keypoints = (aligned.points - boxes[:, :, None, :2]) / (boxes[:, :, None, 2:] / 2)
    assert_close(grad[..., :2], torch.full((2, 5, 2), float(POINTS)))
    assert_close(grad[..., 2:], keypoints.sum(2) / 2, atol=1e-4, rtol=1e-4)
    for part in (aligned.content, aligned.position, aligned.descriptor):
        (grad,) = torch.autograd.grad(part.sum(), boxes, retain_graph=True, allow_unused=True)
        assert grad is None or not grad.any()


@pytest.mark.parametrize("resampler", [*RESAMPLERS, None])
def test_queries_and_images_are_aligned_one_by_one(resampler):
    aligner = make_aligner(resampler=resampler) if resampler else NoAligner()
    x, position, boxes, level = make_inputs()
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


@pytest.mark.parametrize("resampler", RESAMPLERS)
def test_gradients_reach_every_parameter_and_the_features(resampler):
    aligner, (x, position, boxes, level) = make_aligner(resampler=resampler), make_inputs()
    level.tokens.requires_grad_()
    aligned = aligner(x, position, boxes, level)
    sum(part.sin().sum() for part in aligned).backward()
    assert_gradients_reach_all(aligner)
    assert level.tokens.grad.any()


@pytest.mark.parametrize("pooler", [SeparablePooler, GatherPooler])
@pytest.mark.parametrize("resampler", RESAMPLERS)
def test_every_pooler_gives_the_queries_of_the_operator_and_the_same_gradients(pooler, resampler):
    x, position, boxes, level = make_inputs()
    operator = randomize(make_aligner(resampler=resampler))
    other = make_aligner(pooler, resampler)
    other.load_state_dict(operator.state_dict())
    level.tokens.requires_grad_()
    results = []
    for aligner in (operator, other):
        aligned = aligner(x, position, boxes, level)
        inputs = [level.tokens, *aligner.parameters()]
        results.append(
            [*aligned, *torch.autograd.grad(sum(y.sin().sum() for y in aligned), inputs)]
        )
    for expected, found in zip(*results, strict=True):
        assert_close(found, expected, atol=1e-5, rtol=1e-4)
