"""Deformable attention: kernels, sampling locations, initialisation and padding."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import oracles
from conftest import assert_gradients_reach_all, make_level, randomize
from samdetr.modeling import (
    DeformableSelfAttention,
    Encoder,
    EncoderLayer,
)
from samdetr.modeling.encoder import DeformableAttention
from samdetr.modeling.ops import backends
from samdetr.modeling.ops.deformable import sample_levels

SIZES = {
    "odd": [(5, 7), (3, 4)],
    "one column and one row": [(4, 1), (1, 6)],
    "one cell": [(1, 1)],
    "down to one cell": [(5, 7), (3, 1), (1, 1)],
}
COMPASS = [(1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1)]


@pytest.fixture(params=["embedding_bag", "grid"])
def backend(request):
    with backends(deformable=request.param):
        yield


def make_samples(sizes, dtype=torch.float32, queries=6, heads=2, points=3, dim=4):
    """Values, locations in and around the maps, weights; all of them with gradients."""
    tokens = sum(height * width for height, width in sizes)
    shape = (2, queries, heads, len(sizes), points)
    value = torch.randn(2, tokens, heads, dim, dtype=dtype)
    locations = torch.rand(*shape, 2, dtype=dtype) * 1.8 - 0.4
    weights = torch.rand(shape, dtype=dtype)
    return [x.requires_grad_() for x in (value, locations, weights)]


def loop_samples(sizes, value, locations, weights, upstream):
    """`sample_levels` and its gradients, point by point.

    Args:
        upstream: (B, N, M, D) gradient of the result.
    """
    out = np.zeros(upstream.shape)
    gradients = [np.zeros(x.shape) for x in (value, locations, weights)]
    starts = np.cumsum([0, *(height * width for height, width in sizes)])
    for b, n, m, level, p in np.ndindex(weights.shape):
        height, width = sizes[level]
        x, y = locations[b, n, m, level, p] * (width, height) - 0.5
        weight, wanted = weights[b, n, m, level, p], upstream[b, n, m]
        for row, column in np.ndindex(height, width):
            dx, dy = x - column, y - row
            if abs(dx) >= 1 or abs(dy) >= 1:
                continue
            token = starts[level] + row * width + column
            share = (1 - abs(dx)) * (1 - abs(dy))
            slope = np.array([np.sign(dx) * (abs(dy) - 1), np.sign(dy) * (abs(dx) - 1)])
            out[b, n, m] += weight * share * value[b, token, m]
            gradients[0][b, token, m] += weight * share * wanted
            gradients[1][b, n, m, level, p] += (
                weight * slope * (width, height) * (wanted @ value[b, token, m])
            )
            gradients[2][b, n, m, level, p] += share * (wanted @ value[b, token, m])
    return out, gradients


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_samples_and_gradients_equal_those_of_loops(backend, sizes, dtype, atol):
    inputs = make_samples(sizes, dtype)
    upstream = torch.randn(2, 6, 2, 4, dtype=dtype)
    arrays = [x.detach().double().numpy() for x in (*inputs, upstream)]

    out = sample_levels(inputs[0], sizes, *inputs[1:])
    gradients = torch.autograd.grad(out, inputs, upstream.flatten(2))

    expected, slopes = loop_samples(sizes, *arrays)
    assert out.dtype == dtype
    assert_close(out, torch.tensor(expected, dtype=dtype).flatten(2), atol=atol, rtol=0)
    for gradient, slope in zip(gradients, slopes, strict=True):
        assert_close(gradient, torch.tensor(slope, dtype=dtype), atol=atol, rtol=atol)


def make_levels():
    """Three levels of two images, down to one cell; the second image is padded."""
    return [
        make_level(5, 7, [(5, 7), (3, 4)]),
        make_level(3, 4, [(3, 4), (2, 2)]),
        make_level(1, 1, [(1, 1), (1, 1)]),
    ]


def joined(levels, name):
    return torch.cat([getattr(level, name) for level in levels], dim=1)


def make_attention():
    return randomize(DeformableSelfAttention(32, num_heads=4, num_levels=3, num_points=2))


def attend(attention, levels):
    return attention(joined(levels, "tokens"), joined(levels, "position"), levels)


def test_heads_start_in_the_directions_of_the_compass_and_points_at_1_2_3_cells():
    attention = DeformableAttention(32, num_heads=8, num_levels=2, num_points=3)
    offsets = attention.offsets(torch.randn(5, 32)).view(5, 8, 2, 3, 2)
    for m, direction in enumerate(COMPASS):
        for p in range(3):
            expected = torch.tensor(direction) * (p + 1.0)
            assert_close(offsets[:, m, :, p], expected.expand(5, 2, 2), atol=1e-5, rtol=0)
    assert not attention.weights(torch.randn(5, 32)).any()  # all points weigh the same


def test_self_attention_equals_loops_in_a_padded_batch(backend):
    attention, levels = make_attention(), make_levels()
    out = attend(attention, levels)
    assert_close(out, loop_self_attention(attention, levels), atol=1e-5, rtol=1e-5)


def loop_self_attention(attention, levels):
    """Token by token, point by point, in cells of the unpadded parts."""
    heads, _, points = attention.shape
    query = joined(levels, "tokens") + joined(levels, "position")
    offsets = attention.offsets(query).unflatten(-1, (*attention.shape, 2)).detach().numpy()
    weights = attention.weights(query).unflatten(-1, (heads, -1)).softmax(-1)
    weights = weights.unflatten(-1, attention.shape[1:]).detach().numpy()
    sums = np.zeros((*query.shape[:2], heads, query.shape[-1] // heads))
    for b in range(len(query)):
        maps = [value_map(attention, level, b) for level in levels]
        for n, (own, row, column) in enumerate(cells(levels)):
            columns, rows = oracles.valid_cells(levels[own], b)
            x, y = (column + 0.5) / columns, (row + 0.5) / rows  # of the image
            for m, i, p in np.ndindex(heads, len(levels), points):
                columns, rows = oracles.valid_cells(levels[i], b)
                dx, dy = offsets[b, n, m, i, p]
                sample = oracles.hat_sample(maps[i][m], x * columns + dx - 0.5, y * rows + dy - 0.5)
                sums[b, n, m] += weights[b, n, m, i, p] * sample
    return attention.output(torch.tensor(sums, dtype=torch.float32).flatten(2))


def value_map(attention, level, image):
    """(M, D, H, W) values of an image, zero where it is padded."""
    value = attention.value(level.tokens[image]) * ~level.padding[image, :, None]
    heads = attention.shape[0]
    return value.T.unflatten(1, level.size).unflatten(0, (heads, -1)).detach().numpy()


def cells(levels):
    """(level, row, column) of every token."""
    return [(i, *cell) for i, level in enumerate(levels) for cell in np.ndindex(level.size)]


def test_layers_of_the_encoder_start_as_deformable_attention_does_and_apart():
    attention = randomize(DeformableSelfAttention(32, 8, 3, 2))
    layers = Encoder(EncoderLayer(attention, 32, 48), 2).layers
    fresh = DeformableSelfAttention(32, 8, 3, 2)
    for layer in layers:
        for name in ("offsets.weight", "offsets.bias", "weights.weight", "weights.bias"):
            assert_close(layer.attention.get_parameter(name), fresh.get_parameter(name))
        limit = math.sqrt(6 / (32 + 32))  # Xavier's
        assert 0.8 * limit < layer.attention.value.weight.abs().max() <= limit
        assert not layer.attention.value.bias.any()
    assert not layers[0].attention.value.weight.equal(layers[1].attention.value.weight)


def test_dropout_acts_on_the_output_in_training_alone():
    levels = make_levels()
    attention = randomize(DeformableSelfAttention(32, 4, 3, 2, dropout=0.5))
    trained, expected = attend(attention, levels), attend(attention.eval(), levels)
    kept = trained != 0
    assert 0.4 < kept.float().mean() < 0.6
    assert_close(trained[kept], 2 * expected[kept])


def test_gradients_reach_every_parameter(backend):
    attention, levels = DeformableSelfAttention(32, 4, 3, 2), make_levels()
    attend(attention, levels).sin().sum().backward()
    assert_gradients_reach_all(attention)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_lower_precision_comes_close_and_gives_finite_gradients(backend, dtype):
    attention, levels = make_attention(), make_levels()
    expected = attend(attention, levels)
    with torch.autocast("cpu", dtype):
        out = attend(attention, levels)
    out.float().sin().sum().backward()
    assert_close(out.float(), expected, atol=0.1, rtol=0.1)
    assert_gradients_reach_all(attention)
