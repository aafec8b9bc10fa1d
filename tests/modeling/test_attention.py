"""The attention kernel against loops, and the attention modules against torch's."""

import math

import pytest
import torch
from torch.testing import assert_close

import oracles
from conftest import make_aligned, make_level, randomize
from samdetr.modeling import (
    AlignedCrossAttention,
    ConcatenatedCrossAttention,
    DETRCrossAttention,
    DETRSelfAttention,
    GaussianPrior,
    PaddingPrior,
    SelfAttention,
)
from samdetr.modeling.attention import MultiheadAttention, attend, merge_heads, split_heads

PADDING = torch.arange(11) >= torch.tensor([[11], [6]])  # (B, S)


def make_attend(shared, heads=4):
    """Query, key, value and bias; keys in several heads or shared by all."""
    query = torch.randn(2, heads, 5, 8, requires_grad=True)
    key = torch.randn(2, 1 if shared else heads, 11, 8, requires_grad=True)
    value = torch.randn(2, heads, 11, 3, requires_grad=True)
    bias = torch.randn(2, heads, 5, 11).masked_fill(PADDING[:, None, None], -math.inf)
    return query, key, value, bias


@pytest.mark.parametrize("shared", [True, False])
def test_attend_equals_one_query_at_a_time(shared):
    query, key, value, bias = make_attend(shared)
    expected = oracles.attention(query, key.expand(-1, 4, -1, -1), value, bias)
    assert_close(attend(query, key, value, bias), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shared", [True, False])
def test_attend_drops_weights_with_the_given_probability(shared):
    query, key, _, _ = make_attend(shared, heads=2)
    value = torch.eye(11).expand(2, 2, 11, 11)  # the output is the attention itself
    weights = attend(query, key, value)
    dropped = torch.stack([attend(query, key, value, dropout=0.3) for _ in range(50)])
    assert 0.27 < (dropped == 0).float().mean() < 0.33
    assert_close(dropped, torch.where(dropped == 0, 0, weights / 0.7), atol=1e-5, rtol=1e-5)


def test_multi_head_attention_equals_torchs_with_the_same_weights():
    attention = randomize(MultiheadAttention(32, 4))
    query, key, value = torch.randn(2, 5, 32), torch.randn(2, 11, 32), torch.randn(2, 11, 32)
    bias = torch.zeros(2, 11).masked_fill(PADDING, -math.inf)[:, None, None]
    expected, _ = oracles.torch_attention(attention)(query, key, value, key_padding_mask=PADDING)
    assert_close(attention(query, key, value, bias), expected, atol=1e-5, rtol=1e-5)


def test_detr_cross_attention_equals_torchs_with_padded_keys():
    attention = randomize(DETRCrossAttention(32, 4, PaddingPrior()))
    aligned, level = make_aligned(num_points=1), make_level()
    expected, _ = oracles.torch_attention(attention)(
        (aligned.content + aligned.position)[:, :, 0],
        level.tokens + level.position,
        level.tokens,
        key_padding_mask=level.padding,
    )
    assert_close(attention(aligned, level), expected, atol=1e-5, rtol=1e-5)


def test_self_attention_adds_content_and_position_after_their_projections():
    attention = randomize(SelfAttention(32, 4))
    x, position = torch.randn(2, 2, 5, 32)
    query = attention.query_content(x) + attention.query_position(position)
    key = attention.key_content(x) + attention.key_position(position)
    heads = [split_heads(y, 4) for y in (query, key, attention.value(x))]
    out = merge_heads(oracles.attention(*heads, torch.zeros(2, 4, 5, 5)))
    assert_close(attention(x, position), attention.output(out), atol=1e-5, rtol=1e-5)


class RandomPrior(PaddingPrior):
    """A prior that differs between heads, queries and cells, and rules out the padding."""

    def forward(self, aligned, level):
        queries, heads = aligned.content.shape[1:3]
        bias = torch.linspace(-3, 3, heads * queries * level.padding.shape[1])
        bias = bias.sin().view(1, heads, queries, -1)
        return bias.masked_fill(level.padding[:, None, None], -math.inf)


def test_every_head_of_aligned_cross_attention_asks_for_its_own_keypoint():
    attention = randomize(AlignedCrossAttention(32, 8, RandomPrior()))
    aligned, level = make_aligned(num_points=8), make_level()
    key = attention.key_content(level.tokens) + attention.key_position(level.position)
    values = attention.value(level.tokens).split(4, dim=-1)
    bias, outputs = RandomPrior()(aligned, level), []
    for head in range(8):
        query = attention.query_content(aligned.content[:, :, head])
        query = query + attention.query_position(aligned.position[:, :, head])
        one = (query[:, None], key[:, None], values[head][:, None], bias[:, head : head + 1])
        outputs.append(oracles.attention(*one)[:, 0])
    expected = attention.output(torch.cat(outputs, dim=-1))
    assert_close(attention(aligned, level), expected, atol=1e-5, rtol=1e-5)


MODULES = {
    "multi-head": lambda **kw: MultiheadAttention(num_heads=4, **kw),
    "detr self": lambda **kw: DETRSelfAttention(num_heads=4, **kw),
    "self": lambda **kw: SelfAttention(num_heads=4, **kw),
    "detr cross": lambda **kw: DETRCrossAttention(num_heads=4, prior=PaddingPrior(), **kw),
    "aligned cross": lambda **kw: AlignedCrossAttention(num_heads=4, prior=PaddingPrior(), **kw),
}
INPUTS = {
    "multi-head": lambda: torch.randn(3, 2, 5, 32),
    "detr self": lambda: torch.randn(2, 2, 5, 32),
    "self": lambda: torch.randn(2, 2, 5, 32),
    "detr cross": lambda: (make_aligned(1), make_level()),
    "aligned cross": lambda: (make_aligned(4), make_level()),
}


@pytest.mark.parametrize("kind", MODULES)
def test_heads_that_do_not_divide_the_width_are_an_error(kind):
    with pytest.raises(ValueError, match="dim is 30, must be a multiple of num_heads=4"):
        MODULES[kind](dim=30)


@pytest.mark.parametrize("kind", MODULES)
def test_dropout_acts_on_the_output_and_the_weights_in_training_only(kind):
    attention, inputs = randomize(MODULES[kind](dim=32, dropout=0.5)), INPUTS[kind]()
    first, second = attention(*inputs), attention(*inputs)
    assert 0.3 < (first == 0).float().mean() < 0.7
    kept = (first != 0) & (second != 0)
    assert not first[kept].allclose(second[kept])  # the weights were dropped otherwise
    attention.eval()
    assert torch.equal(attention(*inputs), attention(*inputs))
    plain = MODULES[kind](dim=32, dropout=0.0)
    plain.load_state_dict(attention.state_dict())
    assert_close(plain.train()(*inputs), attention(*inputs), atol=1e-6, rtol=1e-6)


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


@pytest.mark.parametrize("count", [0, 3, 12])
def test_keypoints_that_cannot_be_split_among_the_heads_are_an_error(count):
    with pytest.raises(ValueError, match=f"num_points is {count}, must"):
        make_attention(count)


def test_a_prior_around_keypoints_needs_one_per_head():
    with pytest.raises(ValueError, match="GaussianPrior needs one keypoint per head: .* is 4"):
        make_attention(4, GaussianPrior(32, 4))
