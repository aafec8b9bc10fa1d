"""Feed-forward network, initialisation and copies of template layers."""

from torch import nn
from torch.testing import assert_close

from samdetr.modeling import EncoderLayer
from samdetr.modeling.encoder import DenseAttention
from samdetr.modeling.layers import clones, xavier_matrices_


def test_matrices_are_drawn_within_xaviers_bound_and_vectors_left_alone():
    module = nn.Sequential(nn.Linear(30, 70), nn.Conv2d(8, 20, 3), nn.LayerNorm(5))
    vectors = {k: v.clone() for k, v in module.named_parameters() if v.dim() == 1}
    xavier_matrices_(module)
    for weight, fans in ((module[0].weight, 30 + 70), (module[1].weight, 9 * (8 + 20))):
        bound = (6 / fans) ** 0.5
        assert 0.9 * bound < weight.abs().max() <= bound
    for name, before in vectors.items():
        assert_close(module.get_parameter(name), before)


def make_layer():
    return EncoderLayer(DenseAttention(32, 4), 32, 64)


def test_clones_share_nothing_and_start_apart():
    template = make_layer()
    first, second = clones(template, 2)
    for name, a in first.named_parameters():
        b, source = second.get_parameter(name), template.get_parameter(name)
        assert a.data_ptr() not in (b.data_ptr(), source.data_ptr())
        if a.dim() > 1:
            assert not a.allclose(b), name
            assert not a.allclose(source), name


def test_clones_are_initialised_as_if_built_anew():
    template = make_layer()
    for parameter in template.parameters():
        nn.init.constant_(parameter, 9.0)
    (copy,) = clones(template, 1)
    bound = (6 / (32 + 96)) ** 0.5  # the packed projections are one matrix to Xavier
    weight = copy.attention.in_proj.weight
    assert 0.9 * bound < weight.abs().max() <= bound
    assert not copy.attention.in_proj.bias.any()
    assert not copy.attention.output.bias.any()
    assert (copy.norm1.weight == 1).all()
    assert copy.feed_forward[0].bias.abs().max() <= 32**-0.5
    assert all((x == 9).all() for x in template.parameters())
