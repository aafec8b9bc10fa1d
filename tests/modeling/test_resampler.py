"""What stands for a region: its mean, its maximum, or features at keypoints."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

import oracles
from conftest import assert_gradients_reach_all, make_boxes, make_level, randomize
from samdetr.modeling import (
    AverageResampler,
    ImageKeypointResampler,
    KeypointResampler,
    MaxResampler,
)
from samdetr.modeling.ops.regions import PooledRegions

DIM, POINTS = 8, 4
KEYPOINTS = [KeypointResampler, ImageKeypointResampler]
POOLED = [AverageResampler, MaxResampler]


def make_resampler(kind=KeypointResampler, region_size=7):
    if kind in POOLED:
        return kind()
    return randomize(
        kind(DIM, POINTS, region_size=region_size, reduced_dim=5, hidden_dims=(16, 12))
    )


def place_keypoints(resampler, offsets):
    """The resampler with the (M, 2) offsets of its keypoints fixed."""
    nn.init.zeros_(resampler.keypoints.weight)
    with torch.no_grad():
        resampler.keypoints.bias.copy_(offsets.flatten())
    return resampler


def make_inputs(size=7):
    """Regions, boxes and a level whose second image is padded."""
    regions = PooledRegions(torch.randn(2, 3, DIM, size, size))
    return regions, make_boxes(2, 3), make_level(dim=DIM)


def in_the_box(points, boxes):
    """Points of (B, N, M, 2) in the frame in which the corners of the box are -1 and 1."""
    return (points - boxes[:, :, None, :2]) / (boxes[:, :, None, 2:] / 2)


@pytest.mark.parametrize("size", [7, 4, 1])
def test_features_are_bilinear_samples_of_the_region_at_the_keypoints(size):
    regions, boxes, level = make_inputs(size)
    samples = make_resampler(region_size=size)(regions, boxes, level)
    keypoints = in_the_box(samples.points, boxes)
    for b, n, m in np.ndindex(2, 3, POINTS):
        x, y = ((keypoints[b, n, m] + 1) / 2 * size - 0.5).tolist()  # in bins
        expected = oracles.hat_sample(regions.bins()[b, n].double().numpy(), x, y)
        found = samples.features[b, n, m].double()
        assert_close(found, torch.from_numpy(expected), atol=1e-4, rtol=0)


def test_keypoints_lie_inside_the_box_and_differ_between_queries():
    regions, boxes, level = make_inputs()
    keypoints = in_the_box(make_resampler()(regions, boxes, level).points, boxes)
    assert keypoints.shape == (2, 3, POINTS, 2)
    assert keypoints.abs().max() <= 1 + 1e-4
    assert keypoints.flatten(0, 1).std(0).min() > 0.01


def test_a_keypoint_is_x_then_y():
    keypoints = torch.tensor([[0.0, 0.0], [2 / 7, 0.0], [0.0, 2 / 7], [-6 / 7, 6 / 7]])
    regions, boxes, level = make_inputs()
    resampler = place_keypoints(make_resampler(), keypoints.atanh())
    features, points, _ = resampler(regions, boxes, level)
    assert_close(in_the_box(points, boxes), keypoints.expand(2, 3, -1, -1), atol=1e-4, rtol=0)
    for point, (row, column) in enumerate([(3, 3), (3, 4), (4, 3), (6, 0)]):
        assert_close(features[:, :, point], regions.bins()[..., row, column], atol=1e-5, rtol=1e-5)


def test_a_keypoint_on_the_corner_of_the_box_reads_a_quarter_of_the_corner_bin():
    keypoints = torch.tensor([[-1.0, -1], [1, -1], [-1, 1], [1, 1]]) * (1 - 1e-7)
    regions, boxes, level = make_inputs()
    resampler = place_keypoints(make_resampler(), keypoints.atanh())
    features = resampler(regions, boxes, level).features
    for point, (row, column) in enumerate([(0, 0), (0, 6), (6, 0), (6, 6)]):
        assert_close(
            features[:, :, point], regions.bins()[..., row, column] / 4, atol=1e-5, rtol=1e-5
        )


def test_keypoints_are_the_tanh_of_a_linear_map_of_the_descriptor():
    resampler, (regions, boxes, level) = make_resampler(), make_inputs()
    samples = resampler(regions, boxes, level)
    assert samples.descriptor.shape == (2, 3, 12)
    assert (samples.descriptor >= 0).all()
    expected = resampler.keypoints(samples.descriptor).tanh().unflatten(-1, (POINTS, 2))
    assert_close(in_the_box(samples.points, boxes), expected, atol=1e-4, rtol=1e-4)


def test_the_descriptor_is_the_convnet_and_mlp_of_section_4_2():
    resampler, (regions, boxes, level) = make_resampler(), make_inputs()
    reduced = torch.einsum("dc,bnchw->bndhw", resampler.reduce.weight[:, :, 0, 0], regions.bins())
    x = (reduced + resampler.reduce.bias[:, None, None]).relu().flatten(2)
    for layer in (x for x in resampler.describe if isinstance(x, nn.Linear)):
        x = layer(x).relu()
    assert_close(resampler(regions, boxes, level).descriptor, x, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", POOLED + KEYPOINTS)
def test_every_box_is_sampled_for_itself(kind):
    resampler, (regions, boxes, level) = make_resampler(kind), make_inputs()
    second = level._replace(**{k: getattr(level, k)[1:] for k in ("tokens", "position", "padding")})
    for whole, one in zip(
        resampler(regions, boxes, level),
        resampler(PooledRegions(regions.bins()[1:, 2:]), boxes[1:, 2:], second),
        strict=True,
    ):
        assert_close(whole[1:, 2:], one, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KEYPOINTS)
def test_keypoints_start_without_bias_but_not_without_weight(kind):
    resampler = kind(DIM, POINTS)
    assert not resampler.keypoints.bias.any()
    assert resampler.keypoints.weight.any()


@pytest.mark.parametrize("kind", KEYPOINTS)
def test_gradients_reach_every_parameter_and_the_features(kind):
    resampler, (regions, boxes, level) = make_resampler(kind), make_inputs()
    regions.bins().requires_grad_(), level.tokens.requires_grad_()
    resampler(regions, boxes, level).features.sin().sum().backward()
    assert_gradients_reach_all(resampler)
    assert regions.bins().grad.flatten(2).any(-1).all()
    assert (level.tokens.grad is None) == (kind is KeypointResampler)


@pytest.mark.parametrize("kind, statistic", [(AverageResampler, np.mean), (MaxResampler, np.max)])
def test_a_pooled_vector_is_the_statistic_of_each_channel_of_the_region(kind, statistic):
    regions, boxes, level = make_inputs()
    features, points, descriptor = kind()(regions, boxes, level)
    assert features.shape == (2, 3, 1, DIM)
    for b, n, c in np.ndindex(2, 3, DIM):
        expected = statistic(regions.bins()[b, n, c].numpy())
        assert float(features[b, n, 0, c]) == pytest.approx(float(expected), abs=1e-6)
    assert torch.equal(points, boxes[:, :, None, :2])
    assert torch.equal(descriptor, features[:, :, 0])
    assert not [*kind().parameters()]


def test_the_gradient_of_a_pooled_vector_reaches_all_bins_or_the_largest():
    regions, boxes, level = make_inputs()
    regions.bins().requires_grad_()
    for kind, expected in (
        (AverageResampler, torch.full((2, 3, DIM, 7, 7), 1 / 49)),
        (MaxResampler, (regions.bins() == regions.bins().amax((-2, -1), keepdim=True)).float()),
    ):
        (grad,) = torch.autograd.grad(kind()(regions, boxes, level).features.sum(), regions.bins())
        assert_close(grad, expected)


def test_keypoints_in_the_image_read_the_map_of_the_level_at_their_place():
    regions, boxes, level = make_inputs()
    samples = make_resampler(ImageKeypointResampler)(regions, boxes, level)
    maps = level.map.double().numpy()
    for b, n, m in np.ndindex(2, 3, POINTS):
        width, height = oracles.valid_cells(level, b)
        x, y = samples.points[b, n, m].tolist()
        expected = oracles.hat_sample(maps[b], x * width - 0.5, y * height - 0.5)
        found = samples.features[b, n, m].double()
        assert_close(found, torch.from_numpy(expected), atol=1e-5, rtol=0)


def test_keypoints_in_the_image_start_in_the_centre_of_the_box_and_reach_every_edge():
    regions, boxes, level = make_inputs()
    offsets = torch.tensor([[0.0, 0.0], [-20.0, 0.0], [0.0, 20.0], [20.0, -20.0]])
    resampler = place_keypoints(make_resampler(ImageKeypointResampler), offsets)
    points = resampler(regions, boxes, level).points
    x, y = boxes[..., 0], boxes[..., 1]
    low, high = torch.zeros_like(x), torch.ones_like(x)
    for point, expected in enumerate([(x, y), (low, y), (x, high), (high, low)]):
        assert_close(points[:, :, point], torch.stack(expected, dim=-1), atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", KEYPOINTS)
def test_boxes_get_no_gradient_through_the_features(kind):
    resampler, (regions, boxes, level) = make_resampler(kind), make_inputs()
    features, points, _ = resampler(regions, boxes.requires_grad_(), level)
    (grad,) = torch.autograd.grad(points.sum(), boxes, retain_graph=True)
    assert grad[..., :2].all()
    (grad,) = torch.autograd.grad(features.sum(), boxes, allow_unused=True)
    assert grad is None or not grad.any()
