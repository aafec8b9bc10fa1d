"""Sine embeddings and query positions against the scalar formula."""

import pytest
import torch
from torch.testing import assert_close

import oracles
from conftest import make_boxes, make_level
from samdetr.modeling import LearnedQueryPosition, SinePosition, SineQueryPosition
from samdetr.modeling.position import sine_embedding


def expected_embedding(points, dim):
    rows = [oracles.sine_embedding(x, y, dim) for x, y in points.reshape(-1, 2).tolist()]
    return torch.tensor(rows).view(*points.shape[:-1], dim)


@pytest.mark.parametrize("dim", [4, 32, 256])
def test_embedding_equals_the_scalar_formula(dim):
    points = torch.rand(2, 3, 2)
    assert_close(sine_embedding(points, dim), expected_embedding(points, dim), atol=2e-6, rtol=0)


def test_embeddings_stop_gradients():
    assert not sine_embedding(torch.rand(3, 2, requires_grad=True), 8).requires_grad


@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_valid_cells_are_encoded_by_their_place_in_the_valid_part(offset):
    valid = [(5, 7), (3, 4), (1, 1)]
    level = make_level(5, 7, valid)
    encoding = SinePosition(16, offset)(level.padding.unflatten(1, level.size))
    for image, (rows, columns) in enumerate(valid):
        for row in range(rows):
            for column in range(columns):
                x, y = (column + 1 - offset) / columns, (row + 1 - offset) / rows
                expected = torch.tensor(oracles.sine_embedding(x, y, 16))
                assert_close(encoding[image, row * 7 + column], expected, atol=1e-5, rtol=0)


def test_the_sine_position_of_a_query_is_that_of_its_centre_whatever_its_size():
    boxes = make_boxes()
    position = SineQueryPosition(32)(boxes)
    assert_close(position, expected_embedding(boxes[..., :2], 32), atol=2e-6, rtol=0)


def test_the_learned_position_of_a_query_is_the_same_in_every_image():
    position = LearnedQueryPosition(num_queries=5, dim=8)
    out = position(make_boxes(3, 5))
    assert_close(out, position.embedding.weight.expand(3, 5, 8))
    weights = torch.randn_like(out)
    (out * weights).sum().backward()
    assert_close(position.embedding.weight.grad, weights.sum(0))


@pytest.mark.parametrize("dim", [2, 30])
def test_a_width_that_sines_do_not_fill_is_an_error(dim):
    with pytest.raises(ValueError, match=f"dim is {dim}, must be a multiple of 4"):
        SinePosition(dim)
