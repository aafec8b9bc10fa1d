"""Padding that leaves no trace: encodings of zero, and regions that end with their image.

From the neck on: the backbone sees the border of an image, and GroupNorm averages over padding.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from test_pooler import every_box
from torch import Tensor, nn
from torch.testing import assert_close

import oracles
from conftest import make_boxes, make_level, make_model, make_pyramid, randomize
from samdetr.modeling import (
    DeformableSelfAttention,
    Encoder,
    EncoderLayer,
    MaskedSinePosition,
    MultiScaleMapper,
    RoIAlignPooler,
    SinePosition,
    UnpaddedPooler,
)
from samdetr.structures import Predictions

ALIGNER = "decoder__layer__aligner__pooler___target_"
IMAGE, PADDED = (9, 7), (14, 12)  # cells


@given(st.tuples(*[st.integers(1, 12)] * 2), st.tuples(*[st.integers(1, 12)] * 2))
def test_encodings_are_zero_on_padding_and_else_those_of_the_released_models(size, valid):
    padding = torch.ones(1, *size, dtype=torch.bool)
    padding[0, : valid[0], : valid[1]] = False
    masked, released = MaskedSinePosition(16)(padding), SinePosition(16)(padding)
    outside = padding.flatten(1)
    assert not masked[outside].any()
    assert torch.equal(masked[~outside], released[~outside])


def test_the_released_encoding_of_rows_of_padding_turns_with_a_bit_and_the_masked_one_does_not():
    padding = torch.ones(1, 4, 4, dtype=torch.bool)
    padding[0, :2, :2] = False
    kinds = SinePosition, MaskedSinePosition
    noisy, clean = (
        (kind(16, offset=0.5)(padding) - kind(16, offset=0.5 + 2**-24)(padding)).abs().max()
        for kind in kinds
    )
    assert noisy > 0.1
    assert clean < 1e-5


def encoders() -> list[Encoder]:
    deformable = EncoderLayer(DeformableSelfAttention(32, 4, 2, 3), 32, 16)
    return [randomize(Encoder(deformable, 2)), make_model("detr", neck__dim=32).encoder]


@pytest.mark.parametrize("encoder", encoders(), ids=["deformable", "dense"])
def test_what_the_encoder_makes_of_an_image_does_not_depend_on_the_encoding_of_padding(encoder):
    levels = make_pyramid()
    masked = [
        x._replace(position=x.position.masked_fill(x.padding[..., None], 0.0)) for x in levels
    ]
    for before, after in zip(encoder(levels), encoder(masked), strict=True):
        valid = ~before.padding
        assert_close(before.tokens[valid], after.tokens[valid])
        assert not before.tokens[~valid].allclose(after.tokens[~valid])


@pytest.mark.parametrize("size", [7, 2])
@pytest.mark.parametrize("traced", [False, True])
def test_regions_of_a_padded_map_are_those_of_the_map_alone(size, traced, monkeypatch):
    if traced:  # by products then, as on a GPU
        monkeypatch.setattr("samdetr.modeling.ops.roi_align.eager_on_cpu", lambda device: False)
    level, boxes = make_level(9, 11, [(9, 11), (4, 6)], dim=5), make_boxes(2, 40)
    boxes = torch.cat([every_box(), boxes], dim=1)
    bins = UnpaddedPooler(size)(boxes, level).bins()
    for image, (rows, columns) in enumerate([(9, 11), (4, 6)]):
        tokens = level.tokens[image].unflatten(0, (9, 11))[:rows, :columns].flatten(0, 1)
        alone = make_level(rows, columns, [(rows, columns)], dim=5)._replace(tokens=tokens[None])
        expected = RoIAlignPooler(size)(boxes[image, None], alone).bins()
        assert_close(bins[image, None], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("image", [0, 1])
def test_regions_of_a_padded_map_equal_loops_over_the_image(image):
    level, boxes = make_level(6, 5, [(6, 5), (3, 4)], dim=3), make_boxes(2, 6)
    bins = UnpaddedPooler(3)(boxes, level).bins()[image]
    width, height = oracles.valid_cells(level, image)
    map_of = level.tokens[image].unflatten(0, (6, 5))[:height, :width].permute(2, 0, 1)
    for box, found in zip(boxes[image].tolist(), bins):
        x0, y0, x1, y1 = oracles.corners(box)
        cells = x0 * width, y0 * height, x1 * width, y1 * height
        expected = oracles.roi_align(map_of.double().numpy(), cells, 3)
        assert_close(found.double(), torch.from_numpy(expected), atol=2e-5, rtol=0)


def model_of(variant: str, **settings) -> nn.Module:
    """A model without GroupNorm that reads one level, or three of them."""
    if variant != "multi-scale":
        return randomize(make_model(variant, neck__norm="", **settings), std=0.02).eval()
    attention = {"num_heads": 8, "num_levels": 3, "num_points": 4, "dim": 64}
    model = make_model("sam_detr_smca", neck__norm="", decoder__levels=[0], **settings)
    channels, position = dict(res3=96, res4=104, res5=120), model.neck.position
    model.neck = MultiScaleMapper(channels, 64, position, norm="")
    model.encoder = Encoder(EncoderLayer(DeformableSelfAttention(**attention), 64, 32), 1)
    model.decoder.levels = [2]
    return randomize(model, std=0.02).eval()


def clean(variant: str) -> nn.Module:
    choices = {"neck__position___target_": MaskedSinePosition}
    if variant != "detr":
        choices[ALIGNER] = UnpaddedPooler
    return model_of(variant, **choices)


def predict(model: nn.Module, features: dict[str, Tensor], padding: Tensor) -> Predictions:
    """From the maps of a backbone."""
    with torch.no_grad():
        pyramid = model.encoder(model.neck(features, padding))
        return model.decoder(model.queries(pyramid), pyramid)


def inputs(size: tuple[int, int], channels: dict[str, int]) -> tuple[dict[str, Tensor], Tensor]:
    """Maps at strides 8, 16 and 32 of a batch of one image padded to `size`, in cells of 32."""
    torch.manual_seed(5)
    alone = {
        name: torch.randn(1, count, *(x * 4 // 2**i for x in IMAGE))
        for i, (name, count) in enumerate(channels.items())
    }
    padding = torch.ones(1, *(32 * x for x in size), dtype=torch.bool)
    padding[:, : 32 * IMAGE[0], : 32 * IMAGE[1]] = False
    maps = {}
    for i, (name, x) in enumerate(alone.items()):
        rows, columns = (side * 4 // 2**i for side in size)
        maps[name] = F.pad(x, (0, columns - x.shape[3], 0, rows - x.shape[2]), value=torch.nan)
    return maps, padding


def filled(maps: dict[str, Tensor], std: float) -> dict[str, Tensor]:
    return {k: torch.where(x.isnan(), std * torch.randn_like(x), x) for k, x in maps.items()}


@pytest.mark.parametrize("variant", ["sam_detr", "sam_detr_smca", "detr", "multi-scale"])
def test_clean_predictions_depend_neither_on_the_content_of_padding_nor_on_how_much_there_is(
    variant,
):
    model = clean(variant)
    alone = predict(model, *inputs(IMAGE, model.neck.in_channels))
    maps, padding = inputs(PADDED, model.neck.in_channels)
    for std in (0.0, 3.0):
        found = predict(model, filled(maps, std), padding)
        assert_close(found.logits, alone.logits, atol=1e-4, rtol=1e-4)
        assert_close(found.boxes, alone.boxes, atol=1e-5, rtol=0)


def test_by_default_they_depend_on_it_as_in_the_released_models():
    model = model_of("sam_detr")
    maps, padding = inputs(PADDED, model.neck.in_channels)
    first, second = (predict(model, filled(maps, std), padding) for std in (0.0, 3.0))
    assert (first.boxes - second.boxes).abs().max() > 1e-4
