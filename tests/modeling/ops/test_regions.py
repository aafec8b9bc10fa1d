"""Samples and projections of regions computed from the map equal those computed from the bins."""

import pytest
import torch
from test_pooler import LEVELS, every_box
from torch import nn
from torch.testing import assert_close

from conftest import make_boxes, make_level
from samdetr.modeling import GatherPooler, RoIAlignPooler, SeparablePooler
from samdetr.modeling.ops.roi_align import bin_weights
from samdetr.modeling.ops.roi_align_cpu import BinSums, PointSums

DIM = 6


def make_points(boxes, count=12):
    """Points in, on the rim of and outside their boxes, and on the middles of bins."""
    points = torch.randn(*boxes.shape[:2], count, 2)
    points[:, :, :4] = torch.tensor([[-1.0, -1], [1, -1], [-1, 1], [1, 1]])
    points[:, :, 4:6] = torch.tensor([[1.5, 0.0], [-9.0, 9.0]])
    return points


def make_inputs(name):
    level = make_level(*LEVELS[name], dim=DIM)
    boxes = torch.cat([every_box(), make_boxes(2, 30)], dim=1)
    return level, boxes


def with_gradients(out, *inputs):
    """The output, and gradients of a sum over it with weights that are all different."""
    weights = torch.linspace(-1, 1, out.numel()).view(out.shape)
    return out, *torch.autograd.grad((out * weights).sum(), inputs)


def assert_all_close(found, expected):
    for x, y in zip(found, expected, strict=True):
        assert_close(x, y, atol=1e-5 * max(1.0, float(y.detach().abs().max())), rtol=1e-5)


@pytest.mark.parametrize("name", LEVELS)
@pytest.mark.parametrize("size", [7, 2])
@pytest.mark.parametrize("ours", [GatherPooler, SeparablePooler])
def test_points_read_off_the_map_are_samples_of_the_bins_and_so_are_gradients(name, size, ours):
    level, boxes = make_inputs(name)
    points = make_points(boxes).requires_grad_()
    level.tokens.requires_grad_()
    found, expected = (
        with_gradients(pooler(boxes, level).read(points), level.tokens, points)
        for pooler in (ours(size), RoIAlignPooler(size))
    )
    assert_all_close(found, expected)


@pytest.mark.parametrize("name", LEVELS)
@pytest.mark.parametrize("bias", [True, False])
def test_a_convolution_before_pooling_is_one_after_it_and_so_are_gradients(name, bias):
    level, boxes = make_inputs(name)
    convolution = nn.Conv2d(DIM, 4, 1, bias=bias)
    inputs = level.tokens.requires_grad_(), *convolution.parameters()
    found, expected = (
        with_gradients(pooler(boxes, level).project(convolution), *inputs)
        for pooler in (GatherPooler(7), RoIAlignPooler(7))
    )
    assert_all_close(found, expected)


def test_gradients_of_points_and_features_are_the_numerical_ones():
    level, boxes = make_level(4, 5, dim=3), make_boxes(2, 3)
    weights = [x.double() for x in bin_weights(boxes, level, 3)]
    tokens = level.tokens.double().requires_grad_()
    places = (4 * torch.rand(2, 3, 4, 2, dtype=torch.float64) - 1).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda tokens, places: PointSums.apply(tokens, places, *weights), (tokens, places)
    )
    assert torch.autograd.gradcheck(lambda tokens: BinSums.apply(tokens, *weights), tokens)


def test_boxes_get_no_gradient_through_what_is_read():
    level, boxes = make_level(dim=DIM), make_boxes().requires_grad_()
    level.tokens.requires_grad_()
    regions = GatherPooler(7)(boxes, level)
    for part in (
        regions.bins(),
        regions.read(make_points(boxes)),
        regions.project(nn.Conv2d(6, 2, 1)),
    ):
        assert torch.autograd.grad(part.sum(), boxes, allow_unused=True) == (None,)


def test_points_that_are_no_numbers_read_nothing_and_do_not_disturb_the_others():
    level, boxes = make_inputs(next(iter(LEVELS)))
    points = make_points(boxes)
    expected = GatherPooler(7)(boxes, level).read(points)
    points[:, ::2, 3] = torch.nan
    found = GatherPooler(7)(boxes, level).read(points)
    expected[:, ::2, 3] = 0
    assert_close(found, expected)


def test_regions_without_a_cell_are_zero_and_have_a_gradient():
    level = make_level(dim=DIM)
    level.tokens.requires_grad_()
    boxes = torch.tensor([0.5, 0.5, 0.0, 0.0]).expand(2, 3, 4)
    regions = GatherPooler(7)(boxes, level)
    bins, samples = regions.bins(), regions.read(make_points(boxes))
    assert not bins.any()
    assert not samples.any()
    (grad,) = torch.autograd.grad(bins.sum() + samples.sum(), level.tokens)
    assert not grad.any()
