"""Recorded layers and recomputed attention agree with the modules themselves."""

from contextlib import ExitStack

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from conftest import make_batch, make_predictions
from inspection_makers import SIZES, make_mini, make_observation
from samdetr.inspection import (
    attention_weights,
    gaussian_sharpness,
    observe,
    same_object,
    view_query,
)
from samdetr.inspection.views import Observation, keypoints_of_head
from samdetr.modeling import ConcatenatedCrossAttention, DETRCrossAttention, PaddingPrior
from samdetr.modeling.attention import merge_heads, split_heads
from samdetr.modeling.ops.boxes import corners

VARIANTS = (
    "sam_detr",
    "sam_detr_pp_smca",
    "detr",
    "conditional_detr",
    "dab_detr",
    "smca_detr",
    "ablations/figure7_16_keypoints",
)


def values_of(attention, level):
    """(B, heads, S, E) values of a level."""
    if isinstance(attention, DETRCrossAttention):
        weight, offset = attention.in_proj.weight.chunk(3)[2], attention.in_proj.bias.chunk(3)[2]
        return split_heads(level.tokens @ weight.T + offset, attention.num_heads)
    return split_heads(attention.value(level.tokens), attention.num_heads)


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_weights_times_values_are_the_output_of_the_cross_attention(variant):
    model, outputs = make_mini(variant), []
    with ExitStack() as hooks:
        for layer in model.decoder.layers:
            hook = layer.cross_attention.register_forward_hook(lambda *x: outputs.append(x[2]))
            hooks.enter_context(hook)
        records = observe(model, make_batch(SIZES)).layers

    assert len(records) == len(outputs) == 3
    for record, output in zip(records, outputs):
        weights = attention_weights(record)
        assert weights.shape[:3] == (2, 8, 30)
        found = merge_heads(weights @ values_of(record.attention, record.level))
        assert_close(record.attention.output(found), output, atol=2e-5, rtol=1e-4)
        assert not weights.masked_select(record.level.padding[:, None, None]).any()
        assert_close(weights.sum(-1), torch.ones(2, 8, 30))
        assert weights.std(2).amax() > 1e-3  # queries differ: the comparison means something


def test_layers_are_recorded_in_order_with_their_levels_and_references():
    model, observation = make_observation("sam_detr_pp")
    assert [x.level.size for x in observation.layers] == [(2, 2), (3, 4), (6, 8)]
    pyramid = [x.level for x in observation.layers]
    starts = [model.queries(pyramid).reference.sigmoid(), *observation.predictions.boxes[:-1]]
    for record, start in zip(observation.layers, starts):
        assert_close(record.boxes, start, atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("variant", ["sam_detr_pp_smca", "smca_detr"])
def test_sharpness_gives_the_gaussian_of_the_prior(variant):
    _, observation = make_observation(variant)
    for record in observation.layers:
        level, points = record.level, record.aligned.points.transpose(1, 2)
        height, width = level.size
        y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        cells = torch.stack([x, y], dim=-1).flatten(0, 1) / level.extent[:, None]  # (B, S, 2)
        offset = cells[:, None, None] - points[..., None, :]  # (B, M, N, S, 2)
        sharpness = gaussian_sharpness(record).transpose(1, 2)[..., None, :]
        ours = (-sharpness * offset.square()).sum(-1).exp()

        prior = record.attention.prior(record.aligned, level).dense().exp()

        outside = level.padding[:, None, None]
        assert_close(ours.masked_fill(outside, 0), prior, atol=1e-5, rtol=1e-4)
        assert prior.std() > 0.01


@pytest.mark.parametrize("points", [1, 4, 16])
def test_the_keypoints_of_a_head_are_those_that_change_its_query(points):
    attention = ConcatenatedCrossAttention(32, 8, points, PaddingPrior())
    key = torch.randn(1, 5, 32)
    for point in range(points):
        query = torch.zeros(1, 1, points, 32)
        query[:, :, point] = 1
        heads, _ = attention.heads(query, key)
        asking = heads[0, :, 0].any(-1).tolist()
        owned = [point in range(points)[keypoints_of_head(m, 8, points)] for m in range(8)]
        assert owned == asking


def test_a_view_has_the_numbers_of_its_query_cut_to_the_image():
    model, observation = make_observation("sam_detr_pp_smca")
    names = [f"class {i}" for i in range(10)]

    view = view_query("mine", model, observation, 3, names)

    predictions = observation.predictions
    scores = predictions.logits[:, 0, 3].sigmoid()
    assert view[:3] == ("mine", 3, f"class {int(scores[-1].argmax())}")
    assert [x.level for x in view.layers] == [2, 1, 0]
    for index, (layer, record) in enumerate(zip(view.layers, observation.layers)):
        width, height = record.level.extent[0].int().tolist()
        weights = attention_weights(record)[0, :, 3].unflatten(-1, record.level.size)
        heads = np.stack([x.weights for x in layer.maps[1:]])
        assert_close(torch.from_numpy(heads), weights[:, :height, :width], atol=1e-6, rtol=1e-5)
        np.testing.assert_allclose(layer.maps[0].weights, heads.mean(0), atol=1e-6)
        np.testing.assert_allclose(layer.maps[0].weights.sum(), 1, rtol=1e-5)
        points = record.aligned.points[0, 3].detach().numpy()
        np.testing.assert_array_equal(layer.maps[0].points, points)
        for head, shown in enumerate(layer.maps[1:]):
            np.testing.assert_array_equal(shown.points, points[head : head + 1])
            sharpness = gaussian_sharpness(record)[0, 3, head].numpy()
            np.testing.assert_allclose(shown.sharpness[0], sharpness, atol=1e-5, rtol=1e-4)
        boxes = corners(torch.stack([record.boxes[0, 3], predictions.boxes[index, 0, 3]]))
        np.testing.assert_allclose([layer.reference, layer.predicted], boxes.detach(), atol=1e-6)
        assert layer.score == pytest.approx(float(scores[index, scores[-1].argmax()]))


def test_a_view_of_the_original_detr_has_no_reference_and_no_keypoints():
    model, observation = make_observation("detr")
    view = view_query("baseline", model, observation, 0, None)
    assert view.label in [str(i) for i in range(10)]
    for layer in view.layers:
        assert layer.reference is None
        assert [x.points.size for x in layer.maps] == [0] * 9
        assert [x.sharpness for x in layer.maps] == [None] * 9


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ((-3.0, 1.0, 2.0, 4.0), 2),  # the best of those that overlap by half
        ((-3.0, 4.0, 2.0, 4.0), 1),
        ((5.0, 4.0, 2.0, 4.0), 0),
    ],
)
def test_the_same_object_is_the_best_detection_of_those_that_overlap(scores, expected):
    model, predictions = make_mini("sam_detr"), make_predictions(num_queries=4)
    boxes = [
        [0.5, 0.5, 0.2, 0.2],
        [0.52, 0.5, 0.2, 0.2],
        [0.54, 0.5, 0.2, 0.2],
        [0.2, 0.2, 0.3, 0.3],
    ]
    predictions.boxes[-1, 0] = torch.tensor(boxes)
    predictions.logits[-1, 0] = torch.tensor(scores)[:, None]
    box = corners(predictions.boxes[-1, 0, 0])
    assert same_object(model, Observation([], predictions), box) == expected
