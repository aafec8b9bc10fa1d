"""Detections are compared with the nearest query-class pairs of the model."""

import pytest
import torch

from samdetr.export import Difference
from samdetr.export.graph import AllPairs, Pairs, match
from samdetr.modeling.postprocessing import best

COUNT = 6
EXTENT = torch.tensor([200.0, 100.0, 200.0, 100.0])


@pytest.fixture
def pairs():
    corners = torch.rand(5, 2, 2).sort(1).values.flatten(1)
    return Pairs(corners, torch.randperm(15).view(5, 3) / 20, EXTENT)


def detections(pairs):
    return [x[0].clone() for x in best(pairs.scores[None], pairs.boxes[None], COUNT)]


def compare(found, pairs):
    boxes, scores, classes = found
    return match(boxes, scores, classes, pairs, COUNT)


def test_the_same_detections_do_not_differ(pairs):
    assert compare(detections(pairs), pairs) == (0, 0)


def test_equal_scores_may_change_places(pairs):
    pairs.scores.view(-1)[:8] = 0.9
    boxes = pairs.boxes[torch.arange(2, 8) // 3]
    classes = torch.arange(2, 8) % 3
    assert compare((boxes, torch.full((COUNT,), 0.9), classes), pairs) == (0, 0)


def test_differences_are_measured_in_scores_and_pixels(pairs):
    boxes, scores, classes = detections(pairs)
    boxes[2, 1] += 0.0004  # of a height of 100
    scores[4] -= 0.0005
    difference = compare((boxes, scores, classes), pairs)
    assert difference == pytest.approx((0.0005, 0.04), rel=1e-3)
    assert not difference


@pytest.mark.parametrize("wrong", ["class", "query", "twice", "few", "nan box", "nan score"])
def test_what_is_wrong_differs_too_much(pairs, wrong):
    boxes, scores, classes = detections(pairs)
    if wrong == "class":
        classes[1] = (classes[1] + 1) % 3
    elif wrong == "query":
        boxes[3] += 0.1
    elif wrong == "twice":
        boxes[1], scores[1], classes[1] = boxes[0], scores[0], classes[0]
    elif wrong == "few":
        boxes, scores, classes = boxes[1:], scores[1:], classes[1:]
    elif wrong == "nan box":
        boxes[0, 0] = torch.nan
    else:
        scores[0] = torch.nan
    assert compare((boxes, scores, classes), pairs)


def test_all_pairs_are_compared_one_by_one(pairs):
    expected = Pairs(*(x[None] for x in pairs))
    boxes, scores = expected.boxes.clone(), expected.scores.clone()
    boxes[0, 4, 2] -= 0.01  # of a width of 200
    scores[0, 3, 1] += 0.25
    difference = AllPairs(None).compare((boxes, scores), expected)
    assert difference == pytest.approx((0.25, 2.0), rel=1e-3)


def test_nan_exceeds_the_tolerances():
    assert Difference(torch.nan, 0.0) and Difference(0.0, torch.nan)
    assert Difference(0.0, 0.11) and Difference(0.0011, 0.0)
    assert not Difference(0.001, 0.1)
