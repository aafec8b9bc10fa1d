"""RoIAlign: loops, Detectron2's operator, matrix products and lists of cells agree."""

import pytest
import torch
from torch.testing import assert_close

import oracles
from conftest import make_boxes, make_level
from samdetr.modeling import FastestPooler, GatherPooler, RoIAlignPooler, SeparablePooler

POOLERS = (RoIAlignPooler, SeparablePooler, GatherPooler)
BOXES = {  # (cx, cy, w, h)
    "whole image": [0.5, 0.5, 1.0, 1.0],
    "nearly whole": [0.5, 0.5, 0.99999, 0.99999],
    "upper left, half outside": [0.0, 0.0, 0.8, 0.6],
    "lower right, half outside": [1.0, 1.0, 0.7, 0.9],
    "far corner, large": [0.99, 0.01, 0.98, 0.98],
    "tiny": [0.31, 0.62, 1e-3, 1e-3],
    "no width": [0.31, 0.62, 0.0, 0.4],
    "no height": [0.31, 0.62, 0.4, 0.0],
    "a point": [0.31, 0.62, 0.0, 0.0],
    "a line": [0.5, 0.5, 0.97, 1e-7],
    "a point in the corner": [1.0, 1.0, 1e-5, 1e-5],
}
LEVELS = {  # height, width, valid part of each image
    "odd": (5, 7, None),
    "square": (12, 12, [(12, 12), (7, 11)]),
    "a row": (1, 9, [(1, 9), (1, 4)]),
    "a column": (15, 1, [(15, 1), (2, 1)]),
    "one cell": (1, 1, None),
    "large": (22, 31, [(22, 31), (14, 8)]),
    "extents of bins": (14, 21, [(14, 21), (7, 7)]),
}


def every_box():
    return torch.tensor([*BOXES.values()]).expand(2, -1, -1)


def by_loops(boxes, level, size):
    """(B, N, C, R, R) regions by the oracle, which finds the extent of the image for itself."""
    maps = level.tokens.double().unflatten(1, level.size).permute(0, 3, 1, 2).detach().numpy()
    out = torch.zeros(*boxes.shape[:2], level.tokens.shape[-1], size, size, dtype=torch.float64)
    for b, row in enumerate(boxes.tolist()):
        width, height = oracles.valid_cells(level, b)
        for n, box in enumerate(row):
            x0, y0, x1, y1 = oracles.corners(box)
            cells = (x0 * width, y0 * height, x1 * width, y1 * height)
            out[b, n] = torch.from_numpy(oracles.roi_align(maps[b], cells, size))
    return out.float()


@pytest.mark.parametrize("pooler", POOLERS)
@pytest.mark.parametrize(("name", "size"), [("odd", 7), ("one cell", 2), ("square", 2)])
def test_regions_equal_a_loop_over_bins_and_samples(pooler, name, size):
    level = make_level(*LEVELS[name], dim=3)
    boxes = torch.cat([every_box()[:, :9], make_boxes(2, 4)], dim=1)
    assert_close(pooler(size)(boxes, level).bins(), by_loops(boxes, level, size), atol=2e-5, rtol=0)


@pytest.mark.parametrize("pooler", POOLERS[1:])
@pytest.mark.parametrize("name", LEVELS)
@pytest.mark.parametrize("size", [7, 3])
def test_products_and_lists_equal_the_operator_and_so_do_gradients(pooler, name, size):
    level = make_level(*LEVELS[name], dim=6)
    level.tokens.requires_grad_()
    boxes = torch.cat([every_box(), make_boxes(2, 60)], dim=1)
    operator, operator_grad = bins_and_gradient(RoIAlignPooler(size), boxes, level)
    bins, grad = bins_and_gradient(pooler(size), boxes, level)
    assert_close(bins, operator, atol=1e-5, rtol=0)
    assert_close(grad, operator_grad, atol=1e-5 * float(operator_grad.abs().max()), rtol=0)


def bins_and_gradient(pooler, boxes, level):
    bins = pooler(boxes, level).bins()
    weights = torch.linspace(-1, 1, bins.numel()).view_as(bins)
    (grad,) = torch.autograd.grad((bins * weights).sum(), level.tokens)
    return bins, grad


@pytest.mark.parametrize("pooler", POOLERS[1:])
@pytest.mark.parametrize("cells", [7, 14, 21])
def test_they_are_equal_where_a_box_is_a_rounding_error_wider_than_the_image(pooler, cells):
    level = make_level(cells, cells, [(cells, cells)], dim=2)
    boxes = torch.rand(1, 200, 4)
    boxes[..., 2:] = 1.0
    operator, bins = (kind(7)(boxes, level).bins() for kind in (RoIAlignPooler, pooler))
    assert_close(bins, operator, atol=1e-5, rtol=0)


def test_a_traced_graph_holds_the_operator_and_is_right_for_other_boxes():
    level, pooler = make_level(dim=4), FastestPooler(7)
    bins = torch.jit.trace(lambda boxes: pooler(boxes, level).bins(), make_boxes())
    boxes = make_boxes()
    assert_close(bins(boxes), pooler(boxes, level).bins())


@pytest.mark.parametrize("pooler", POOLERS)
def test_pooling_works_under_bfloat16_autocast(pooler):
    level, boxes = make_level(dim=4), make_boxes()
    exact = pooler(7)(boxes, level).bins()
    with torch.autocast("cpu", torch.bfloat16):
        bins = pooler(7)(boxes, level._replace(tokens=level.tokens.bfloat16())).bins()
    assert_close(bins.float(), exact, atol=0.05, rtol=0.05)
