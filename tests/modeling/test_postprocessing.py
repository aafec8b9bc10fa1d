"""Detections: the best pairs of query and class of the last layer, in pixels."""

import pytest
import torch
from torch.testing import assert_close

import oracles
from conftest import make_predictions
from samdetr.modeling.postprocessing import detections

SIZES = [(40, 60), (7, 300)]  # (height, width) of each image


@pytest.mark.parametrize("count", [1, 10, 30, 100])  # of 6 queries and 5 classes
def test_detections_equal_a_sorted_list_of_all_pairs(count):
    predictions = make_predictions()
    for image, found in enumerate(detections(predictions, SIZES, count)):
        expected = oracles.best_detections(
            predictions.logits[-1, image], predictions.boxes[-1, image], SIZES[image], count
        )
        scores, classes, boxes = zip(*expected)
        assert len(found) == min(count, 30)
        assert found.image_size == SIZES[image]
        assert_close(found.scores, torch.tensor(scores))
        assert found.pred_classes.tolist() == [*classes]
        assert_close(found.pred_boxes.tensor, torch.tensor(boxes), atol=1e-3, rtol=1e-5)
