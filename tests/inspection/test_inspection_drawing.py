"""Figures of the decoder show boxes, keypoints and attention where the numbers say."""

import numpy as np
import pytest
from matplotlib.patches import Ellipse, Rectangle

from inspection_makers import make_view
from samdetr.inspection import draw_heads

pytestmark = pytest.mark.slow

SIZE = np.array([120, 80])  # of the picture


def rectangles(axis):
    """(N, 4) corners of the boxes of a panel, fractions of the picture."""
    boxes = [x.get_bbox() for x in axis.patches if isinstance(x, Rectangle)]
    return np.array([[*(x.min / SIZE), *(x.max / SIZE)] for x in boxes])


def dots(axis):
    """(P, 2) keypoints of a panel, fractions of the picture."""
    return np.array([x.get_xydata()[0] / SIZE for x in axis.lines]).reshape(-1, 2)


def rows(figure, columns):
    return np.array(figure.axes).reshape(-1, columns)


def test_heads_have_a_row_for_every_layer_of_every_model():
    view = make_view()
    model, baseline = view.objects[0]

    axes = rows(draw_heads(view.picture, [model, baseline]), 4)

    assert len(axes) == 3 + 2
    assert [x.get_title() for x in axes[0]] == ["keypoints", "all heads", "head 1", "head 2"]
    for line, layer in zip(axes, model.layers + baseline.layers):
        for axis, shown in zip(line[1:], layer.maps):
            photo, heat = axis.images
            assert [*photo.get_extent()] == [*heat.get_extent()] == [0, 120, 80, 0]
            opacity = heat.get_array()[..., 3]
            share = shown.weights / shown.weights.max()
            np.testing.assert_allclose(opacity, 0.8 * np.sqrt(share), rtol=1e-5)
            np.testing.assert_allclose(dots(axis), shown.points)
    texts = [line[0].texts[0].get_text() for line in axes]
    assert texts[1].startswith("model, layer 2\nquery 4\nclass cat, score ")
    assert texts[4].startswith("baseline, layer 2\nquery 14\nclass cat, score ")
    assert texts[0].endswith("level 2, 6 x 4 cells")


def test_boxes_are_drawn_where_they_are_and_a_baseline_has_no_reference():
    view = make_view()
    model, baseline = view.objects[1]
    axes = rows(draw_heads(view.picture, [model, baseline]), 4)
    for line, layer in zip(axes[:3], model.layers):
        np.testing.assert_allclose(rectangles(line[0]), [layer.reference, layer.predicted])
        np.testing.assert_allclose(rectangles(line[2]), [layer.reference])
    for line, layer in zip(axes[3:], baseline.layers):
        np.testing.assert_allclose(rectangles(line[0]), [layer.predicted])
        assert len(rectangles(line[2])) == 0


def test_rings_are_where_the_gaussian_of_a_head_has_half_its_height():
    view = make_view()
    model, _ = view.objects[0]
    axes = rows(draw_heads(view.picture, [model]), 4)
    assert not [x for x in axes[0][1].patches if isinstance(x, Ellipse)]  # of all heads
    for line, layer in zip(axes, model.layers):
        for axis, shown in zip(line[2:], layer.maps[1:]):
            (ring,) = [x for x in axis.patches if isinstance(x, Ellipse)]
            rim = ring.get_patch_transform().transform(ring.get_path().vertices) / SIZE
            offset = np.abs(rim - shown.points[0]).max(0)  # of the rightmost and lowest points
            height = np.exp(-(shown.sharpness[0] * offset**2))
            np.testing.assert_allclose(height, 0.5, rtol=1e-3)
