"""The Gaussian prior against the full grid of offsets and by its geometry."""

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import oracles
from conftest import assert_gradients_reach_all, make_aligned, make_level, randomize
from samdetr.modeling import GaussianPrior


def make_prior(bandwidth=8.0):
    return randomize(GaussianPrior(descriptor_dim=32, num_points=8, bandwidth=bandwidth))


def round_prior():
    """A prior whose Gaussians all have scale 1 along both axes."""
    prior = make_prior()
    nn.init.zeros_(prior.scale.weight)
    nn.init.ones_(prior.scale.bias)
    return prior


@pytest.mark.parametrize("size", [(4, 4), (7, 13), (1, 5), (1, 1)])
def test_bias_peaks_in_the_cell_of_each_keypoint(size):
    level, aligned = make_level(*size), make_aligned()
    peak = round_prior()(aligned, level).dense().argmax(-1).transpose(1, 2)  # (B, N, M)
    cell = (aligned.points * level.extent[:, None, None]).long()
    assert_close(peak, cell[..., 1] * size[1] + cell[..., 0])


def test_the_first_scale_of_a_keypoint_is_along_x_and_the_second_along_y():
    prior, level = round_prior(), make_level(6, 6, [(6, 6)] * 2)
    with torch.no_grad():
        prior.scale.bias.view(8, 2)[:, 0] = 3.0
    aligned = make_aligned()
    aligned = aligned._replace(points=torch.full_like(aligned.points, 0.25))  # of cell (1, 1)
    bias = prior(aligned, level).dense().unflatten(-1, (6, 6))
    assert_close(bias[..., 1, 2], torch.full((2, 8, 5), -9 / 8))
    assert_close(bias[..., 2, 1], torch.full((2, 8, 5), -1 / 8))


@pytest.mark.parametrize("bandwidth", [8.0, 2.0])
def test_bias_and_gradients_equal_those_of_the_full_grid(bandwidth):
    prior, level, aligned = make_prior(bandwidth), make_level(), make_aligned()
    aligned.points.requires_grad_()
    aligned.descriptor.requires_grad_()
    scale = prior.scale(aligned.descriptor).unflatten(-1, (8, 2))
    results = []
    for bias in (
        prior(aligned, level).dense(),
        oracles.gaussian_bias(aligned.points, scale, level, bandwidth),
    ):
        leaves = (aligned.points, aligned.descriptor, *prior.parameters())
        grads = torch.autograd.grad((bias / 10).exp().sum(), leaves, retain_graph=True)
        results.append((bias, *grads))
    for ours, full in zip(*results, strict=True):
        assert_close(ours, full, atol=1e-4, rtol=1e-4)


def test_padded_cells_are_ruled_out_and_no_others():
    level = make_level()
    bias = make_prior()(make_aligned(), level).dense()
    assert torch.equal(bias.isinf(), level.padding[:, None, None].expand_as(bias))


def test_only_the_scales_are_rounded_under_autocast():
    prior, level, aligned = make_prior(), make_level(), make_aligned()
    with torch.autocast("cpu", torch.bfloat16):
        bias, scale = prior(aligned, level).dense(), prior.scale(aligned.descriptor)
    scale = scale.float().unflatten(-1, (8, 2))
    assert_close(bias, oracles.gaussian_bias(aligned.points, scale, level, 8.0))


def test_gradients_reach_every_parameter():
    prior = make_prior()
    bias = prior(make_aligned(), make_level()).dense()
    bias.masked_fill(bias == -math.inf, 0).sum().backward()
    assert_gradients_reach_all(prior)
