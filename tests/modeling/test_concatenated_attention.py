"""Cross-attention whose heads are not as many as the keypoints: which head looks for what."""

import pytest
from torch import nn
from torch.testing import assert_close

import oracles
from conftest import assert_gradients_reach_all, make_aligned, make_level, randomize
from samdetr.modeling import (
    AlignedCrossAttention,
    ConcatenatedCrossAttention,
    GaussianPrior,
    PaddingPrior,
)
from samdetr.modeling.attention import split_heads

DIM, HEADS = 32, 8
COUNTS = [1, 2, 4, 8, 16, 24]


def make_attention(num_points, prior=None):
    prior = prior or PaddingPrior()
    return randomize(ConcatenatedCrossAttention(DIM, HEADS, num_points, prior))


@pytest.mark.parametrize("count", COUNTS)
def test_it_is_multi_head_attention_on_concatenated_keypoints_and_repeated_keys(count):
    attention, aligned, level = make_attention(count), make_aligned(count), make_level()
    query = attention.query_content(aligned.content) + attention.query_position(aligned.position)
    key = attention.key_content(level.tokens) + attention.key_position(level.position)
    heads = [query.flatten(2), key.repeat(1, 1, count), attention.value(level.tokens)]
    bias = PaddingPrior()(aligned, level).expand(-1, HEADS, 5, -1)
    out = oracles.attention(*(split_heads(x, HEADS) for x in heads), bias)
    expected = attention.output(out.transpose(1, 2).flatten(2))
    assert_close(attention(aligned, level), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("prior", [PaddingPrior, lambda: GaussianPrior(32, HEADS)])
def test_a_keypoint_per_head_is_aligned_cross_attention(prior):
    attention, twin = make_attention(HEADS, prior()), AlignedCrossAttention(DIM, HEADS, prior())
    twin.load_state_dict(attention.state_dict())
    aligned, level = make_aligned(HEADS), make_level()
    assert_close(attention(aligned, level), twin(aligned, level), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("count", COUNTS)
def test_a_keypoint_acts_on_its_own_heads_alone(count):
    attention, aligned, level = make_attention(count), make_aligned(count), make_level()
    nn.init.eye_(attention.output.weight)  # the output is that of the heads, side by side
    before = attention(aligned, level).unflatten(-1, (HEADS, -1))
    for point in range(count):
        content = aligned.content.clone()
        content[:, :, point] += 1
        after = attention(aligned._replace(content=content), level).unflatten(-1, (HEADS, -1))
        changed = (after - before).abs().amax((0, 1, 3)) > 1e-4
        first, last = point * HEADS / count, (point + 1) * HEADS / count
        expected = [first < head + 1 and head < last for head in range(HEADS)]
        assert changed.tolist() == expected


def test_heads_that_share_a_keypoint_attend_differently():
    attention, aligned, level = make_attention(1), make_aligned(1), make_level()
    query, key = attention.heads(
        attention.query_content(aligned.content), attention.key_content(level.tokens)
    )
    weights = (query @ key.transpose(2, 3)).softmax(-1)  # (B, heads, N, S)
    for head in range(1, HEADS):
        assert (weights[:, head] - weights[:, 0]).abs().max() > 0.01


@pytest.mark.parametrize("count", COUNTS)
def test_parameters_do_not_depend_on_the_number_and_all_get_gradients(count):
    attention = make_attention(count)
    expected = AlignedCrossAttention(DIM, HEADS, PaddingPrior()).state_dict()
    shapes = {name: x.shape for name, x in attention.state_dict().items()}
    assert shapes == {name: x.shape for name, x in expected.items()}
    attention(make_aligned(count), make_level()).sin().sum().backward()
    assert_gradients_reach_all(attention)


@pytest.mark.parametrize("count", [0, 3, 12])
def test_keypoints_that_cannot_be_split_among_the_heads_are_an_error(count):
    with pytest.raises(ValueError, match=f"num_points is {count}, must"):
        make_attention(count)


def test_a_prior_around_keypoints_needs_one_per_head():
    with pytest.raises(ValueError, match="GaussianPrior needs one keypoint per head: .* is 4"):
        make_attention(4, GaussianPrior(32, 4))
