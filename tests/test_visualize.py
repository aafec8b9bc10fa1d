"""Pictures of a run: what they show is where it should be."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.data import Metadata
from detectron2.structures import Boxes, Instances
from detectron2.utils.visualizer import Visualizer

from conftest import make_batch, make_model
from samdetr import visualize

METADATA = Metadata(thing_classes=[f"class {i}" for i in range(5)])


def test_ground_truth_is_drawn_around_its_box_in_the_enlarged_picture():
    picture = np.full((400, 400, 3), 127, dtype=np.uint8)
    boxes = Boxes(torch.tensor([[25.0, 50.0, 75.0, 90.0]]))
    instances = Instances((100, 100), gt_boxes=boxes, gt_classes=torch.tensor([3]))

    drawn = visualize.draw_ground_truth(picture, instances, METADATA)

    rows, columns = np.nonzero((drawn != picture).any(-1))
    assert drawn.shape == picture.shape
    assert abs(rows.max() - 360) <= 4 and abs(columns.max() - 300) <= 4
    assert abs(rows.min() - 200) <= 20 and abs(columns.min() - 100) <= 4  # the label is above
    inside = (drawn == picture)[240:340, 120:280]
    assert inside.all()


@pytest.mark.parametrize("scale", [1, 3.84])
def test_detections_are_drawn_around_their_boxes_at_any_scale(scale):
    picture = np.full((100, 200, 3), 127, np.uint8)
    boxes = Boxes(torch.tensor([[12.0, 40.0, 188.0, 90.0]]))
    fields = dict(scores=torch.tensor([0.8]), pred_classes=torch.tensor([1]))

    drawn = visualize.draw_detections(
        picture, Instances((100, 200), pred_boxes=boxes, **fields), METADATA, scale
    )

    marked = (drawn != 127).any(-1)
    (columns,) = marked.any(0).nonzero()
    (rows,) = marked[:, round(180 * scale)].nonzero()  # right of the label
    limits = [columns.min(), rows.min(), columns.max(), rows.max()]
    assert drawn.shape == (round(100 * scale), round(200 * scale), 3)
    np.testing.assert_allclose(limits, boxes.tensor[0] * scale, atol=4)


@pytest.mark.parametrize("name", ["$x^2$", r"a\$b"])
def test_names_of_classes_are_text_and_no_formulas(name):
    picture = np.full((200, 300, 3), 127, dtype=np.uint8)
    boxes = Boxes(torch.tensor([[60.0, 50.0, 200.0, 150.0]]))
    truth = Instances((200, 300), gt_boxes=boxes, gt_classes=torch.tensor([0]))
    found = Instances((200, 300), pred_boxes=boxes, pred_classes=torch.tensor([0]))
    found.scores = torch.tensor([0.75])

    def drawn(label):
        """By Detectron2, whose labels are formulas but for what is escaped."""
        np.random.seed(0)  # of the colours
        escaped = label.replace("$", r"\$")
        visualizer = Visualizer(picture, Metadata())
        return visualizer.overlay_instances(boxes=boxes, labels=[escaped]).get_image()

    for draw, instances, label in (
        (visualize.draw_ground_truth, truth, name),
        (visualize.draw_detections, found, f"{name} 75%"),
    ):
        np.random.seed(0)
        image = draw(picture, instances, Metadata(thing_classes=[name]))
        np.testing.assert_array_equal(image, drawn(label))


def test_comparison_shows_every_image_twice_and_only_detections_above_the_threshold():
    model, inputs = make_model().eval(), make_batch()

    figure = visualize.draw_comparison(model, inputs, METADATA, threshold=0.999)

    upper, lower = figure.axes[: len(inputs)], figure.axes[len(inputs) :]
    assert len(upper) == len(lower) == 2
    for axis, entry in zip(lower, inputs):
        picture = visualize.to_picture(entry["image"], "RGB")
        assert (axis.images[0].get_array() == picture).all()
    first = visualize.to_picture(inputs[0]["image"], "RGB")
    assert (upper[0].images[0].get_array() != first).any()
