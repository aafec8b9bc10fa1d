"""Costs pair by pair and assignments against every other one."""

import math

import numpy as np
import pytest

import oracles
from conftest import make_predictions, make_targets
from samdetr.modeling import HungarianMatcher

COUNTS = [(3, 0), (1, 4), (2, 2)]


def pairs(matches, layer, image):
    """(query, target) pairs of a layer and an image."""
    chosen = (matches.layer == layer) & (matches.image == image)
    return list(zip(matches.query[chosen].tolist(), matches.target[chosen].tolist()))


@pytest.mark.parametrize("counts", COUNTS)
def test_the_cost_of_every_pair_equals_the_scalar_formula(counts):
    predictions, targets = make_predictions(), make_targets(counts)
    cost = HungarianMatcher().cost(predictions, targets)
    for layer, image, query, target in np.ndindex(*cost.shape):
        label = targets.labels[image, target]
        expected = oracles.pair_cost(
            float(predictions.logits[layer, image, query, label]),
            predictions.boxes[layer, image, query].tolist(),
            targets.boxes[image, target].tolist(),
        )
        assert float(cost[layer, image, query, target]) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("counts", [*COUNTS, (6, 5), (8, 7)])
def test_no_other_assignment_is_cheaper(counts):
    predictions, targets = make_predictions(num_queries=6), make_targets(counts)
    matcher = HungarianMatcher()
    matches, cost = matcher(predictions, targets), matcher.cost(predictions, targets).numpy()
    for layer, image in np.ndindex(3, 2):
        found = pairs(matches, layer, image)
        queries, used = zip(*found) if found else ((), ())
        assert len(found) == min(counts[image], 6)
        assert len({*queries}) == len({*used}) == len(found)
        costs = cost[layer, image, :, : counts[image]]
        costs = costs.T if counts[image] > 6 else costs
        total = sum(cost[layer, image, query, target] for query, target in found)
        assert total == pytest.approx(oracles.cheapest_total(costs), abs=1e-4)


def test_padded_targets_are_never_matched():
    predictions, targets = make_predictions(), make_targets((4, 1))
    predictions.boxes[:, 1] = targets.boxes[1, 3]  # every box lies on a padded target
    matches = HungarianMatcher()(predictions, targets)
    assert {target for layer in range(3) for _, target in pairs(matches, layer, 1)} == {0}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("part", ["logits", "boxes"])
def test_predictions_that_are_not_finite_spoil_only_their_own_image(bad, part):
    predictions, targets = make_predictions(), make_targets((2, 3))
    expected = HungarianMatcher()(predictions, targets)
    getattr(predictions, part)[1, 0] = bad
    matches = HungarianMatcher()(predictions, targets)
    assert HungarianMatcher().cost(predictions, targets).isfinite().all()
    for layer, image in np.ndindex(3, 2):
        if (layer, image) == (1, 0):
            assert len(pairs(matches, layer, image)) == 2
        else:
            assert pairs(matches, layer, image) == pairs(expected, layer, image)
