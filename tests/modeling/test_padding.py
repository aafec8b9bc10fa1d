"""Padding that leaves no trace: encodings of zero, and regions that end with their image.

From the neck on: the backbone sees the border of an image, and GroupNorm averages over padding.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from conftest import make_boxes, make_level, make_model, randomize
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
from samdetr.modeling.ops import backends
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


@pytest.mark.parametrize("size", [7, 2])
@pytest.mark.parametrize("backend", ["embedding_bag", "products"])
def test_regions_of_a_padded_map_are_those_of_the_map_alone(size, backend):
    level, boxes = make_level(9, 11, [(9, 11), (4, 6)], dim=5), make_boxes(2, 60)
    with backends(roi_align=backend):
        bins = UnpaddedPooler(size)(boxes, level).bins()
    for image, (rows, columns) in enumerate([(9, 11), (4, 6)]):
        tokens = level.tokens[image].unflatten(0, (9, 11))[:rows, :columns].flatten(0, 1)
        alone = make_level(rows, columns, [(rows, columns)], dim=5)._replace(tokens=tokens[None])
        expected = RoIAlignPooler(size)(boxes[image, None], alone).bins()
        assert_close(bins[image, None], expected, atol=1e-5, rtol=0)


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
