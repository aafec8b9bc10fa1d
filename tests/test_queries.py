"""Queries before the first layer: no content, the same references for every image."""

import pytest
import torch
from torch.testing import assert_close

from conftest import assert_gradients_reach_all
from samdetr.modeling import CentredReference, LearnedReference


@pytest.mark.parametrize("kind", [LearnedReference, CentredReference])
def test_every_image_gets_the_same_references_and_zero_content(kind):
    queries = kind(num_queries=5, dim=8)(3)
    assert queries.content.shape == (3, 5, 8)
    assert not queries.content.any()
    assert queries.reference.shape == (3, 5, 4)
    assert_close(queries.reference[1:], queries.reference[:1].expand(2, -1, -1))


def test_learned_references_start_normal_and_get_the_gradients_of_all_images():
    module = LearnedReference(num_queries=500, dim=8)
    assert 0.9 < module.reference.weight.std() < 1.1
    out = module(3).reference
    assert_close(out[2], module.reference.weight)
    weights = torch.randn_like(out)
    (out * weights).sum().backward()
    assert_close(module.reference.weight.grad, weights.sum(0))
    assert_gradients_reach_all(module)


def test_centred_references_are_the_middle_of_the_image_and_no_weights():
    module = CentredReference(num_queries=5, dim=8)
    assert (module(2).reference.sigmoid() == 0.5).all()
    assert not [*module.parameters()]
    assert not module.state_dict()
