"""The encoder: torch's layers, all levels as one sequence, blind to padding."""

import torch
from torch import nn
from torch.testing import assert_close

import oracles
from conftest import make_level, randomize
from samdetr.convert import DETR, rename
from samdetr.modeling import DenseAttention, EncoderLayer


def make_layer(dropout=0.0):
    return EncoderLayer(DenseAttention(32, 4, dropout), 32, 64, dropout)


def test_a_layer_without_positions_equals_torchs_with_the_same_weights():
    twin = randomize(nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True))
    ours, prefix = make_layer(), "transformer.encoder.layers.0."
    ours.load_state_dict(
        {
            rename(prefix + k, DETR).removeprefix("encoder.layers.0."): v
            for k, v in twin.state_dict().items()
        }
    )
    level = make_level()
    out = ours(level.tokens, torch.zeros_like(level.position), [level])
    expected = twin(level.tokens, src_key_padding_mask=level.padding)
    assert_close(out[~level.padding], expected[~level.padding], atol=1e-5, rtol=1e-5)


def test_positions_are_added_to_queries_and_keys_but_not_to_values():
    attention, level = randomize(DenseAttention(32, 4)), make_level()
    located = level.tokens + level.position
    expected, _ = oracles.torch_attention(attention)(
        located, located, level.tokens, key_padding_mask=level.padding
    )
    out = attention(level.tokens, level.position, [level])
    assert_close(out, expected, atol=1e-5, rtol=1e-5)
