"""Gradients of losses, predictions, positions and noise, in float64 against finite differences."""

from __future__ import annotations

import pytest
import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d

from conftest import make_boxes, make_predictions, make_queries, make_targets, randomize_statistics
from finite_differences import assert_module_right, assert_right
from samdetr.modeling import (
    AnchoredPredictionHead,
    AnchoredQueryPosition,
    DABPredictionHead,
    DABQueryPosition,
    Denoising,
    DETRPredictionHead,
    HungarianMatcher,
    PredictionHead,
    SetCriterion,
    SoftmaxCriterion,
    SoftmaxMatcher,
    SoftmaxPredictionHead,
)
from samdetr.modeling.backbone import FoldedConv2d
from samdetr.modeling.criterion import box_losses
from samdetr.modeling.position import sine
from samdetr.structures import Predictions, Queries, Targets

pytestmark = pytest.mark.slow

DIM = 16


def targets_of(*counts: int) -> Targets:
    labels, boxes, counts = make_targets(counts)
    return Targets(labels, boxes.double(), counts)


CRITERIA = {
    "focal": SetCriterion(HungarianMatcher()),
    "cross-entropy": SetCriterion(HungarianMatcher(), gamma=0.0),
    "linear focus": SetCriterion(HungarianMatcher(), alpha=0.4, gamma=1.0),
    "softmax": SoftmaxCriterion(SoftmaxMatcher()),
}


@pytest.mark.parametrize("counts", [(3, 1), (9, 2), (0, 0)])
@pytest.mark.parametrize("name", CRITERIA)
def test_losses_by_logits_and_boxes(name, counts):
    predictions, targets = make_predictions(2), targets_of(*counts)

    def losses(logits, boxes):
        named = CRITERIA[name](Predictions(logits, boxes), targets)
        return torch.stack([*named.values()]) + 0 * boxes.sum()

    assert_right(losses, *predictions, exhaustive=True)


def test_losses_of_denoising_queries_by_logits_and_boxes():
    predictions, targets = make_predictions(2), targets_of(3, 1)
    known = torch.tensor([[0, 1, 2], [0, -1, -1]])

    def losses(logits, boxes):
        named = CRITERIA["focal"](Predictions(logits, boxes), targets, known)
        assert len(named) == 12
        return torch.stack([*named.values()])

    assert_right(losses, *predictions, exhaustive=True)


@pytest.mark.parametrize("size", [0.3, 1e-3])
def test_losses_of_boxes_that_overlap_touch_or_lie_apart(size):
    truth = torch.tensor([0.5, 0.5, 0.3, 0.3]).double()
    places = torch.rand(20, 2) * 0.8 + 0.1
    boxes = torch.cat([places, size * (0.5 + torch.rand(20, 2))], dim=-1)
    assert_right(lambda x: tuple(box_losses(x, truth).values()), boxes, exhaustive=True)


HEADS_OF_DECODERS = [PredictionHead, DETRPredictionHead, AnchoredPredictionHead]
HEADS_OF_DECODERS += [DABPredictionHead, SoftmaxPredictionHead]


@pytest.mark.parametrize("kind", HEADS_OF_DECODERS)
def test_predictions_by_queries_and_references_also_where_these_are_clamped(kind):
    reference = torch.randn(2, 3, 4)
    reference[0, 0], reference[1, 1] = 15.0, -15.0

    def predict(head, x, reference):
        logits, boxes, _ = head(x, reference)
        return logits, boxes + 0 * reference.sum()

    assert_module_right(kind(DIM, 3), predict, torch.randn(2, 3, DIM), reference)


def test_boxes_that_move_pass_gradients_on():
    def move(head, x, reference):
        return head(x, reference)[2]

    inputs = torch.randn(2, 3, DIM), torch.randn(2, 3, 4)
    assert_module_right(DABPredictionHead(DIM, 3), move, *inputs)


def test_denoising_queries_by_label_embeddings_and_matching_queries():
    denoising, targets = Denoising(5, DIM, num_groups=2), targets_of(3, 1)

    def add(denoising, content, reference):
        torch.manual_seed(3)  # the same noise at every call
        queries = denoising(Queries(content, reference), targets)
        return queries.content + 0 * reference.sum(), queries.reference + 0 * content.sum()

    assert_module_right(denoising, add, *make_queries(2, 3, DIM)[:2])


def test_sine_embeddings_and_positions_of_boxes_that_move():
    position = DABQueryPosition(DIM)
    assert_right(lambda points: sine(points, DIM, temperature=20.0), torch.rand(3, 4, 2))
    assert_module_right(position, lambda f, boxes: f(boxes), make_boxes(2, 3))
    assert_right(position.target, torch.randn(2, 3, DIM), make_boxes(2, 3))


def test_anchors_of_learned_positions():
    class Anchors(AnchoredQueryPosition):
        def forward(self, reference):
            return self.anchors(reference)

    assert_module_right(Anchors(3, DIM), lambda f, x: f(x) + 0 * x.sum(), torch.zeros(2, 3, 4))


@pytest.mark.parametrize("size", [(5, 6), (4, 1)])
def test_convolutions_with_folded_norms(size):
    norm = randomize_statistics(FrozenBatchNorm2d(4))
    plain = Conv2d(3, 4, 3, stride=2, padding=1, bias=True, norm=norm)
    assert_module_right(FoldedConv2d.of(plain), lambda f, x: f(x), torch.randn(2, 3, *size))
