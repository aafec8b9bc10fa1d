"""The Semantics Aligner (section 4.2): re-samplers, keypoints and gates."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

import oracles
from conftest import make_boxes, make_level, randomize
from samdetr.modeling import (
    AverageResampler,
    Gate,
    ImageKeypointResampler,
    KeypointResampler,
    MaxResampler,
    NoAligner,
    OpenGate,
    RoIAlignPooler,
    SemanticsAligner,
)
from samdetr.modeling.ops.roi_align import Regions
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


def test_a_gate_weights_every_channel_of_every_keypoint_by_the_query():
    gate, features, x = Gate(DIM, POINTS), torch.randn(2, 5, POINTS, DIM), torch.randn(2, 5, DIM)
    weight, bias = gate.coefficients.weight.split(DIM), gate.coefficients.bias.split(DIM)
    for point in range(POINTS):
        expected = features[:, :, point] * (x @ weight[point].T + bias[point]).sigmoid()
        assert_close(gate(features, x)[:, :, point], expected, atol=1e-5, rtol=1e-5)


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


def test_parts_that_do_not_fit_together_are_an_error():
    resampler = KeypointResampler(DIM, POINTS, region_size=3)
    with pytest.raises(ValueError, match="position_gate.num_points is 8, .* gives 4 keypoints"):
        SemanticsAligner(RoIAlignPooler(3), resampler, OpenGate(), Gate(DIM, 8))
    with pytest.raises(ValueError, match="7 x 7 bins, but the resampler takes region_size=3"):
        SemanticsAligner(RoIAlignPooler(7), resampler, OpenGate(), OpenGate())


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


def test_without_aligner_queries_pass_as_they_are_at_the_centre_of_their_box():
    x, position, boxes, level = make_inputs()
    aligned = NoAligner()(x, position, boxes, level)
    assert torch.equal(aligned.content, x[:, :, None])
    assert torch.equal(aligned.position, position[:, :, None])
    assert torch.equal(aligned.points, boxes[:, :, None, :2])
    assert torch.equal(aligned.descriptor, x)


REGION_DIM = 8
POOLED = [AverageResampler, MaxResampler]


def make_resampler(kind=KeypointResampler, region_size=7):
    if kind in POOLED:
        return kind()
    return randomize(
        kind(REGION_DIM, POINTS, region_size=region_size, reduced_dim=5, hidden_dims=(16, 12))
    )


def place_keypoints(resampler, offsets):
    """The resampler with the (M, 2) offsets of its keypoints fixed."""
    nn.init.zeros_(resampler.keypoints.weight)
    with torch.no_grad():
        resampler.keypoints.bias.copy_(offsets.flatten())
    return resampler


def make_regions(size=7):
    """Regions, boxes and a level whose second image is padded."""
    regions = Regions(torch.randn(2, 3, REGION_DIM, size, size))
    return regions, make_boxes(2, 3), make_level(dim=REGION_DIM)


def in_the_box(points, boxes):
    """Points of (B, N, M, 2) in the frame in which the corners of the box are -1 and 1."""
    return (points - boxes[:, :, None, :2]) / (boxes[:, :, None, 2:] / 2)


@pytest.mark.parametrize("size", [7, 4, 1])
def test_features_are_bilinear_samples_of_the_region_at_the_keypoints(size):
    regions, boxes, level = make_regions(size)
    samples = make_resampler(region_size=size)(regions, boxes, level)
    keypoints = in_the_box(samples.points, boxes)
    for b, n, m in np.ndindex(2, 3, POINTS):
        x, y = ((keypoints[b, n, m] + 1) / 2 * size - 0.5).tolist()  # in bins
        expected = oracles.hat_sample(regions.bins()[b, n].double().numpy(), x, y)
        found = samples.features[b, n, m].double()
        assert_close(found, torch.from_numpy(expected), atol=1e-4, rtol=0)


def test_keypoints_are_the_tanh_of_a_linear_map_of_the_descriptor():
    resampler, (regions, boxes, level) = make_resampler(), make_regions()
    samples = resampler(regions, boxes, level)
    assert samples.descriptor.shape == (2, 3, 12)
    assert (samples.descriptor >= 0).all()
    expected = resampler.keypoints(samples.descriptor).tanh().unflatten(-1, (POINTS, 2))
    assert_close(in_the_box(samples.points, boxes), expected, atol=1e-4, rtol=1e-4)


def test_the_descriptor_is_the_convnet_and_mlp_of_section_4_2():
    resampler, (regions, boxes, level) = make_resampler(), make_regions()
    reduced = torch.einsum("dc,bnchw->bndhw", resampler.reduce.weight[:, :, 0, 0], regions.bins())
    x = (reduced + resampler.reduce.bias[:, None, None]).relu().flatten(2)
    for layer in (x for x in resampler.describe if isinstance(x, nn.Linear)):
        x = layer(x).relu()
    assert_close(resampler(regions, boxes, level).descriptor, x, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind, statistic", [(AverageResampler, np.mean), (MaxResampler, np.max)])
def test_a_pooled_vector_is_the_statistic_of_each_channel_of_the_region(kind, statistic):
    regions, boxes, level = make_regions()
    features, points, descriptor = kind()(regions, boxes, level)
    assert features.shape == (2, 3, 1, REGION_DIM)
    for b, n, c in np.ndindex(2, 3, REGION_DIM):
        expected = statistic(regions.bins()[b, n, c].numpy())
        assert float(features[b, n, 0, c]) == pytest.approx(float(expected), abs=1e-6)
    assert torch.equal(points, boxes[:, :, None, :2])
    assert torch.equal(descriptor, features[:, :, 0])
    assert not [*kind().parameters()]


def test_keypoints_in_the_image_read_the_map_of_the_level_at_their_place():
    regions, boxes, level = make_regions()
    samples = make_resampler(ImageKeypointResampler)(regions, boxes, level)
    maps = level.map.double().numpy()
    for b, n, m in np.ndindex(2, 3, POINTS):
        width, height = oracles.valid_cells(level, b)
        x, y = samples.points[b, n, m].tolist()
        expected = oracles.hat_sample(maps[b], x * width - 0.5, y * height - 0.5)
        found = samples.features[b, n, m].double()
        assert_close(found, torch.from_numpy(expected), atol=1e-5, rtol=0)


def test_keypoints_in_the_image_start_in_the_centre_of_the_box_and_reach_every_edge():
    regions, boxes, level = make_regions()
    offsets = torch.tensor([[0.0, 0.0], [-20.0, 0.0], [0.0, 20.0], [20.0, -20.0]])
    resampler = place_keypoints(make_resampler(ImageKeypointResampler), offsets)
    points = resampler(regions, boxes, level).points
    x, y = boxes[..., 0], boxes[..., 1]
    low, high = torch.zeros_like(x), torch.ones_like(x)
    for point, expected in enumerate([(x, y), (low, y), (x, high), (high, low)]):
        assert_close(points[:, :, point], torch.stack(expected, dim=-1), atol=1e-4, rtol=0)
