"""Box geometry against scalar formulas, torchvision's and invariants."""

import pytest
import torch
from torch.testing import assert_close
from torchvision.ops import generalized_box_iou

import oracles
from conftest import make_boxes
from samdetr.modeling.ops.boxes import area, corners, generalized_iou


def test_corners_lie_half_a_size_from_the_centre():
    boxes = make_boxes()
    expected = torch.tensor([[oracles.corners(box) for box in row] for row in boxes.tolist()])
    assert_close(corners(boxes), expected)


def test_area_is_width_times_height_and_zero_inside_out():
    boxes = torch.tensor([[1.0, 2.0, 4.0, 7.0], [4.0, 2.0, 1.0, 7.0], [4.0, 7.0, 1.0, 2.0]])
    assert area(boxes).tolist() == [15, 0, 0]


def test_giou_equals_the_scalar_formula_for_all_pairs_of_all_images():
    a, b = make_boxes(2, 6), make_boxes(2, 4)
    pairs = generalized_iou(corners(a)[:, :, None], corners(b)[:, None])
    expected = [
        [[oracles.giou(x, y) for y in row_b] for x in row_a]
        for row_a, row_b in zip(a.tolist(), b.tolist())
    ]
    assert_close(pairs, torch.tensor(expected), atol=1e-5, rtol=0)
    assert_close(pairs[1], generalized_box_iou(corners(a[1]), corners(b[1])))


@pytest.mark.parametrize(
    "other", [[0.5, 0.5, 1e-6, 1e-6], [0.5, 0.5, 0.2, 0.2], [0.9, 0.1, 0.1, 0.1]]
)
def test_gradient_of_giou_is_finite(other):
    box = torch.tensor([0.5, 0.5, 0.2, 0.2])
    other = torch.tensor(other, requires_grad=True)
    generalized_iou(corners(other), corners(box)).backward()
    assert other.grad.isfinite().all()
