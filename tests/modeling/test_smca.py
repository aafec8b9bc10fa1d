"""The Gaussian prior against the full grid of offsets and by its geometry."""

import pytest
import torch
from torch.testing import assert_close

import oracles
from conftest import make_aligned, make_level, randomize
from samdetr.modeling import GaussianPrior


def make_prior(bandwidth=8.0):
    return randomize(GaussianPrior(descriptor_dim=32, num_points=8, bandwidth=bandwidth))


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


def test_only_the_scales_are_rounded_under_autocast():
    prior, level, aligned = make_prior(), make_level(), make_aligned()
    with torch.autocast("cpu", torch.bfloat16):
        bias, scale = prior(aligned, level).dense(), prior.scale(aligned.descriptor)
    scale = scale.float().unflatten(-1, (8, 2))
    assert_close(bias, oracles.gaussian_bias(aligned.points, scale, level, 8.0))
