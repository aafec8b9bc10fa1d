"""Attention kernels against dense attention with keys copied for each head."""

import math

import pytest
import torch
from torch.testing import assert_close

from samdetr.modeling.ops import attend as attend_module
from samdetr.modeling.ops import backends
from samdetr.modeling.ops.attend import SeparableBias, attend, attend_plain

HEADS, QUERIES = 4, 5
SIZES = [(1, 1), (7, 3), (1, 9)]
ROW_SCORES = HEADS * QUERIES  # of a map that is one cell wide


def make_inputs(height, width, shared=True, sharpness=1.0, dtype=torch.float32, images=2):
    """Query, key, value and biases of images; the second is padded on the right and below."""
    cells = height * width
    query = torch.randn(images, QUERIES, HEADS, 8, dtype=dtype).transpose(1, 2).requires_grad_()
    key = torch.randn(images, 1 if shared else HEADS, cells, 8, dtype=dtype, requires_grad=True)
    value = torch.randn(images, cells, HEADS, 3, dtype=dtype).transpose(1, 2).requires_grad_()
    sides = [
        (sharpness * torch.randn(images, HEADS, QUERIES, x, dtype=dtype)).requires_grad_()
        for x in (width, height)
    ]
    return query, key, value, *sides


def padded(columns, rows):
    """The biases with -inf on the last third of columns and rows of the second image."""
    sides = []
    for side in (columns, rows):
        outside = torch.zeros(side.shape, dtype=torch.bool)
        length = side.shape[-1]
        outside[1, :, :, length - length // 3 :] = True
        sides.append(side.masked_fill(outside, -math.inf))
    return SeparableBias(*sides)


def everything_at_once(query, key, value, bias):
    """Dense attention."""
    scores = query @ key.expand(-1, HEADS, -1, -1).contiguous().mT / query.shape[-1] ** 0.5
    return (scores + bias.dense()).softmax(-1) @ value


def results(function, inputs):
    """Output and all gradients of an attention."""
    query, key, value, *sides = inputs
    out = function(query, key, value, padded(*sides))
    torch.manual_seed(1)
    return out, *torch.autograd.grad(out, inputs, torch.randn(out.shape).to(out.dtype))


@pytest.mark.parametrize("backend", ["tiled", "plain"])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("rows_at_once", [1, 4, 100])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_outputs_and_gradients_are_those_of_all_scores_at_once(
    height, width, rows_at_once, shared, backend, monkeypatch
):
    monkeypatch.setattr(attend_module, "CPU_SCORES", rows_at_once * width * ROW_SCORES)
    inputs = make_inputs(height, width, shared)
    expected = results(everything_at_once, inputs)
    with backends(attend=backend):
        found = results(attend, inputs)
    for ours, slow in zip(found, expected, strict=True):
        assert_close(ours, slow, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("images_at_once", [1, 2, 9])
def test_images_whose_scores_fit_together_are_attended_together(
    images_at_once, shared, monkeypatch
):
    monkeypatch.setattr(attend_module, "CPU_SCORES", images_at_once * 4 * 3 * ROW_SCORES)
    inputs = make_inputs(4, 3, shared, images=5)
    expected = results(everything_at_once, inputs)
    for ours, slow in zip(results(attend, inputs), expected, strict=True):
        assert_close(ours, slow, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("sharpness", [1e2, 1e4])
def test_weights_that_nearly_all_vanish_do_no_harm(sharpness, monkeypatch):
    monkeypatch.setattr(attend_module, "CPU_SCORES", 2 * 3 * ROW_SCORES)
    inputs = make_inputs(7, 3, sharpness=sharpness, dtype=torch.float64)
    expected = results(everything_at_once, inputs)
    for ours, slow in zip(results(attend, inputs), expected, strict=True):
        assert_close(ours, slow, atol=1e-9, rtol=1e-9)
    rounded = [x.detach().float().requires_grad_() for x in inputs]
    for ours, slow in zip(results(attend, rounded), expected, strict=True):
        # float32 holds the bias itself to 6e-8 of its size only.
        assert_close(ours.double(), slow, atol=1e-6 * sharpness, rtol=1e-3)


def test_a_strip_without_any_cell_of_the_image_adds_nothing(monkeypatch):
    monkeypatch.setattr(attend_module, "CPU_SCORES", 3 * ROW_SCORES)
    query, key, value, columns, rows = make_inputs(6, 3)
    for outside in (slice(0, 2), slice(4, 6)):
        masked = rows.detach().clone()
        masked[..., outside] = -math.inf
        bias = SeparableBias(columns, masked)
        out = attend(query, key, value, bias)
        assert_close(out, everything_at_once(query, key, value, bias), atol=1e-5, rtol=1e-5)
        (slope,) = torch.autograd.grad(out.sum(), value)
        assert not slope.unflatten(2, (6, 3))[:, :, outside].any()


def test_a_query_that_may_look_nowhere_finds_zero_and_moves_nothing():
    query, key, value, columns, rows = make_inputs(4, 3)
    masked = rows.detach().clone()
    masked[:, :, 2] = -math.inf
    out = attend(query, key, value, SeparableBias(columns, masked))
    assert not out[:, :, 2].any() and out[:, :, 3].all()
    slopes = torch.autograd.grad(out.sin().sum(), (query, key, value, columns))
    assert all(x.isfinite().all() for x in slopes)
    assert not slopes[0][:, :, 2].any() and not slopes[3][:, :, 2].any()


@pytest.mark.parametrize("shape", [(1, 1, 1, 12), (2, 4, 1, 12), (5, 12)])
def test_a_bias_may_be_any_tensor_that_broadcasts(shape, monkeypatch):
    monkeypatch.setattr(attend_module, "CPU_SCORES", 5 * ROW_SCORES)
    query, key, value, *_ = make_inputs(4, 3)
    bias = torch.randn(shape, requires_grad=True)
    grads = []
    for function, given in (
        (attend, bias),
        (everything_at_once, SeparableBias.of(bias, query, key)),
    ):
        out = function(query, key, value, given)
        grads.append((out, *torch.autograd.grad(out.sin().sum(), (query, key, value, bias))))
    for ours, slow in zip(*grads, strict=True):
        assert_close(ours, slow, atol=1e-5, rtol=1e-4)


def test_nothing_as_large_as_the_scores_is_kept_for_the_backward_pass(monkeypatch):
    monkeypatch.setattr(attend_module, "CPU_SCORES", 20 * ROW_SCORES)
    inputs = make_inputs(20, 20)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        attend(*inputs[:3], padded(*inputs[3:]))
    given = {x.data_ptr() for x in inputs}
    assert sum(x.numel() for x in kept if x.data_ptr() not in given) < 400 * ROW_SCORES


def test_dropout_falls_back_to_weights_that_can_be_dropped():
    query, key, value, *sides = make_inputs(4, 3)
    torch.manual_seed(0)
    out = attend(query, key, value, padded(*sides), dropout=0.5)
    torch.manual_seed(0)
    expected = attend_plain(query, key, value, padded(*sides), dropout=0.5)
    assert torch.equal(out, expected)
    assert not out.allclose(attend(query, key, value, padded(*sides)))


def test_half_precision_is_close_where_weights_are_small_and_finite_where_products_are_large():
    inputs = make_inputs(40, 50)  # weights of about 1/2000
    halves = [x.detach().half().requires_grad_() for x in inputs[:3]]
    exact = [x.detach().float().requires_grad_() for x in halves]
    expected = results(everything_at_once, [*exact, *inputs[3:]])
    found = results(attend, [*halves, *inputs[3:]])
    for x, y in zip(found, expected, strict=True):
        assert_close(x.float(), y, atol=0.01 * float(y.detach().abs().max()), rtol=0.01)
    large = [100 * x.detach() for x in halves]  # products go beyond 65,504 before they are scaled
    assert attend(*large, padded(*inputs[3:])).isfinite().all()


def test_a_gaussian_that_is_far_away_stays_exact_in_bfloat16():
    query, key, value, *_ = (x.detach().bfloat16() for x in make_inputs(1, 9))
    x = torch.linspace(0, 1, 9)
    columns = (1000 + x).expand(2, HEADS, QUERIES, 9)  # bfloat16 would make one number of them
    out = attend(0 * query, key, value, SeparableBias(columns, torch.zeros(2, HEADS, QUERIES, 1)))
    expected = (x.softmax(-1) @ value.float())[:, :, None].expand_as(out)
    assert_close(out.float(), expected, atol=0.02, rtol=0.02)
