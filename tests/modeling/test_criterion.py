"""Set losses against loops, their names, and their mean over processes."""

import math

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

import oracles
from conftest import NUM_CLASSES, make_predictions, make_targets
from interruption import finish, pair
from samdetr.modeling import HungarianMatcher, SetCriterion
from samdetr.structures import Predictions, Targets

LAYERS = ["_0", "_1", ""]  # of three decoder layers


def make_criterion(**settings):
    return SetCriterion(HungarianMatcher(), **settings)


@pytest.mark.parametrize("counts", [(2, 4), (0, 0), (9, 1)])
def test_losses_of_every_layer_equal_loops_over_queries_classes_and_pairs(counts):
    predictions, targets = make_predictions(), make_targets(counts)
    criterion = make_criterion()
    losses = criterion(predictions, targets)
    matches = criterion.matcher(predictions, targets)
    for layer, suffix in enumerate(LAYERS):
        pairs = [pair[1:] for pair in zip(*(x.tolist() for x in matches)) if pair[0] == layer]
        expected = oracles.set_losses(
            predictions.logits[layer], predictions.boxes[layer], targets, pairs
        )
        for name, value in expected.items():
            assert float(losses[name + suffix]) == pytest.approx(value, rel=1e-4)


def test_without_focus_the_class_loss_is_half_the_binary_cross_entropy():
    predictions, targets = make_predictions(depth=1), make_targets((2, 3))
    criterion = make_criterion(class_weight=1.0, alpha=0.5, gamma=0.0)
    _, image, query, target = criterion.matcher(predictions, targets)
    truth = torch.zeros(2, 6, NUM_CLASSES)
    truth[image, query, targets.labels[image, target]] = 1
    expected = F.binary_cross_entropy_with_logits(predictions.logits[0], truth, reduction="sum")
    assert_close(criterion(predictions, targets)["loss_ce"], expected / 2 / 5)


def test_a_loss_that_is_not_finite_is_left_so():
    predictions = make_predictions()
    predictions.logits[2, 0, 0, 0] = math.nan
    losses = make_criterion()(predictions, make_targets())
    assert losses["loss_ce"].isnan()
    assert losses["loss_ce_0"].isfinite()


def global_batch():
    """The same predictions and ground truth in every process, with unequal counts."""
    torch.manual_seed(5)
    return make_predictions(batch=4), make_targets((5, 1, 0, 0))


def losses_of_a_process(rank, folder):
    """The losses of every process's two images of the global batch, saved in a folder."""
    predictions, targets = global_batch()
    mine = slice(2 * rank, 2 * rank + 2)
    losses = make_criterion()(
        Predictions(*(x[:, mine] for x in predictions)),
        Targets(targets.labels[mine], targets.boxes[mine], targets.counts[mine]),
    )
    torch.save(losses, folder / f"{rank}.pth")


def test_the_mean_over_two_processes_is_the_loss_of_one_with_all_images(tmp_path):
    assert finish(*pair(losses_of_a_process, tmp_path)) == [0, 0]
    halves = [torch.load(tmp_path / f"{rank}.pth") for rank in range(2)]
    for name, expected in make_criterion()(*global_batch()).items():
        assert_close((halves[0][name] + halves[1][name]) / 2, expected)
