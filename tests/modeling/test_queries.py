"""Queries before the first layer: no content, the same references for every image."""

import pytest
import torch
from torch.testing import assert_close

from conftest import assert_gradients_reach_all, make_model, make_pyramid
from samdetr.checkpoint import Checkpointer
from samdetr.errors import MissingCheckpointError
from samdetr.modeling import (
    CentredReference,
    CheckpointReference,
    LearnedReference,
    PatternReference,
    RandomReference,
)


def saved(tmp_path, state):
    torch.save({"model": state, "iteration": 3}, tmp_path / "model.pth")
    return str(tmp_path / "model.pth")


def make_queries(kind, tmp_path, num_queries=5):
    if kind is not CheckpointReference:
        return kind(num_queries, dim=8)
    learned = {"queries.reference.weight": torch.randn(num_queries, 4)}
    return CheckpointReference(num_queries, 8, saved(tmp_path, learned))


FIXED = [CentredReference, RandomReference, CheckpointReference]


@pytest.mark.parametrize("kind", [LearnedReference, *FIXED])
def test_every_image_gets_the_same_references_and_zero_content(kind, tmp_path):
    queries = make_queries(kind, tmp_path)(make_pyramid())
    assert queries.content.shape == (2, 5, 8)
    assert not queries.content.any()
    assert queries.reference.shape == (2, 5, 4)
    assert_close(queries.reference[1:], queries.reference[:1])


def test_learned_references_start_normal_and_get_the_gradients_of_all_images():
    module = LearnedReference(num_queries=500, dim=8)
    assert 0.9 < module.reference.weight.std() < 1.1
    out = module(make_pyramid()).reference
    assert_close(out[1], module.reference.weight)
    weights = torch.randn_like(out)
    (out * weights).sum().backward()
    assert_close(module.reference.weight.grad, weights.sum(0))
    assert_gradients_reach_all(module)


def test_every_pattern_meets_every_learned_reference_once():
    module = PatternReference(num_queries=6, dim=8, num_patterns=2)
    queries = module(make_pyramid())
    assert queries.content.shape == (2, 6, 8) and queries.reference.shape == (2, 6, 4)
    for image in range(2):
        for pattern in range(2):
            for box in range(3):
                query = 3 * pattern + box
                assert_close(queries.content[image, query], module.patterns.weight[pattern])
                assert_close(queries.reference[image, query], module.reference.weight[box])
    (queries.content.sin().sum() + queries.reference.sin().sum()).backward()
    assert_gradients_reach_all(module)


def test_queries_that_patterns_do_not_divide_are_an_error():
    with pytest.raises(ValueError, match="num_queries is 7, must be a multiple of 2"):
        PatternReference(num_queries=7, dim=8, num_patterns=2)


def test_random_references_start_as_learned_ones_and_are_the_same_in_every_process():
    reference = RandomReference(500, 8).reference
    assert 0.9 < reference.std() < 1.1 and reference.mean().abs() < 0.1
    torch.manual_seed(1)  # the seed of a process
    assert torch.equal(RandomReference(500, 8).reference, reference)
    assert not torch.equal(RandomReference(500, 8, seed=1).reference, reference)


def test_a_checkpoint_has_the_fixed_references_so_that_their_source_may_go(tmp_path):
    source = make_model(queries={"_target_": RandomReference, "seed": 7})
    model = make_model(queries={"_target_": RandomReference})
    Checkpointer(model).load(saved(tmp_path, source.state_dict()))
    assert torch.equal(model.queries.reference, RandomReference(12, 64, seed=7).reference)


def test_a_checkpoint_that_is_not_there_is_named():
    with pytest.raises(MissingCheckpointError, match=r"nowhere\.pth is not a file"):
        CheckpointReference(5, 8, "nowhere.pth")


def test_a_checkpoint_without_learned_references_is_an_error(tmp_path):
    path = saved(tmp_path, make_model("detr").state_dict())
    with pytest.raises(ValueError, match="model.pth' has no queries.reference.weight"):
        CheckpointReference(12, 64, path)


def test_another_number_of_queries_is_an_error(tmp_path):
    path = saved(tmp_path, {"queries.reference.weight": torch.zeros(7, 4)})
    with pytest.raises(ValueError, match=r"num_queries is 5, .* \(7, 4\); expected \(5, 4\)"):
        CheckpointReference(5, 8, path)
