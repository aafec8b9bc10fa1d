"""Keypoints of a region and the features read off there."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

import oracles
from conftest import assert_gradients_reach_all, randomize
from samdetr.modeling import KeypointResampler

DIM, POINTS = 6, 4


def make_resampler(region_size=7):
    resampler = KeypointResampler(
        DIM, POINTS, region_size=region_size, reduced_dim=5, hidden_dims=(16, 12)
    )
    return randomize(resampler)


def place_keypoints(resampler, keypoints):
    """The resampler with its (M, 2) keypoints in a fixed place."""
    nn.init.zeros_(resampler.keypoints.weight)
    with torch.no_grad():
        resampler.keypoints.bias.copy_(keypoints.atanh().flatten())
    return resampler


def make_regions(size=7):
    return torch.randn(2, 3, DIM, size, size)


@pytest.mark.parametrize("size", [7, 4, 1])
def test_features_are_bilinear_samples_of_the_region_at_the_keypoints(size):
    regions = make_regions(size)
    samples = make_resampler(size)(regions)
    for b, n, m in np.ndindex(2, 3, POINTS):
        x, y = ((samples.keypoints[b, n, m] + 1) / 2 * size - 0.5).tolist()  # in bins
        expected = oracles.hat_sample(regions[b, n].double().numpy(), x, y)
        found = samples.features[b, n, m].double()
        assert_close(found, torch.from_numpy(expected), atol=1e-5, rtol=0)


def test_keypoints_lie_inside_the_box_and_differ_between_queries():
    keypoints = make_resampler()(make_regions()).keypoints
    assert keypoints.shape == (2, 3, POINTS, 2)
    assert keypoints.abs().max() <= 1
    assert keypoints.flatten(0, 1).std(0).min() > 0.01


def test_a_keypoint_is_x_then_y():
    keypoints = torch.tensor([[0.0, 0.0], [2 / 7, 0.0], [0.0, 2 / 7], [-6 / 7, 6 / 7]])
    regions = make_regions()
    features = place_keypoints(make_resampler(), keypoints)(regions).features
    for point, (row, column) in enumerate([(3, 3), (3, 4), (4, 3), (6, 0)]):
        assert_close(features[:, :, point], regions[..., row, column], atol=1e-5, rtol=1e-5)


def test_a_keypoint_on_the_corner_of_the_box_reads_a_quarter_of_the_corner_bin():
    keypoints = torch.tensor([[-1.0, -1], [1, -1], [-1, 1], [1, 1]]) * (1 - 1e-7)
    regions = make_regions()
    features = place_keypoints(make_resampler(), keypoints)(regions).features
    for point, (row, column) in enumerate([(0, 0), (0, 6), (6, 0), (6, 6)]):
        assert_close(features[:, :, point], regions[..., row, column] / 4, atol=1e-5, rtol=1e-5)


def test_keypoints_are_the_tanh_of_a_linear_map_of_the_descriptor():
    resampler = make_resampler()
    samples = resampler(make_regions())
    assert samples.descriptor.shape == (2, 3, 12)
    assert (samples.descriptor >= 0).all()
    expected = resampler.keypoints(samples.descriptor).tanh().unflatten(-1, (POINTS, 2))
    assert_close(samples.keypoints, expected)


def test_the_descriptor_is_the_convnet_and_mlp_of_section_4_2():
    resampler, regions = make_resampler(), make_regions()
    reduced = torch.einsum("dc,bnchw->bndhw", resampler.reduce.weight[:, :, 0, 0], regions)
    x = (reduced + resampler.reduce.bias[:, None, None]).relu().flatten(2)
    for layer in (x for x in resampler.describe if isinstance(x, nn.Linear)):
        x = layer(x).relu()
    assert_close(resampler(regions).descriptor, x, atol=1e-5, rtol=1e-5)


def test_every_region_is_sampled_for_itself():
    resampler, regions = make_resampler(), make_regions()
    for whole, one in zip(resampler(regions), resampler(regions[1:, 2:]), strict=True):
        assert_close(whole[1:, 2:], one, atol=1e-5, rtol=1e-5)


def test_keypoints_start_without_bias_but_not_without_weight():
    resampler = KeypointResampler(DIM, POINTS)
    assert not resampler.keypoints.bias.any()
    assert resampler.keypoints.weight.any()


def test_gradients_reach_every_parameter_and_the_regions():
    resampler, regions = make_resampler(), make_regions().requires_grad_()
    resampler(regions).features.sin().sum().backward()
    assert_gradients_reach_all(resampler)
    assert regions.grad.flatten(2).any(-1).all()
