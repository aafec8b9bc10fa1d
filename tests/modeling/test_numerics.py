"""Whatever is finite and goes into a model, what comes out is, and so are all gradients."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate
from detectron2.structures import Boxes, Instances
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from conftest import make_level, make_targets, randomize
from samdetr.engine import load_config
from samdetr.modeling import SetCriterion, SoftmaxCriterion
from samdetr.structures import FeatureLevel

pytestmark = pytest.mark.slow

MINI = Path(__file__).parents[2] / "configs" / "mini"
DECODERS = (
    *("detr", "smca_detr", "conditional_detr", "dab_detr", "deformable_detr"),
    *("sam_detr", "sam_detr_smca", "sam_detr_pp"),
)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
BOXES = {  # (x0, y0, x1, y1), fractions of the image
    "point": [0.5, 0.5, 0.5, 0.5],
    "line": [0.0, 0.5, 1.0, 0.5],
    "corner": [0.0, 0.0, 1e-6, 1e-6],
    "whole image": [0.0, 0.0, 1.0, 1.0],
}


@cache
def model_of(variant: str) -> nn.Module:
    torch.manual_seed(0)
    config = load_config(str(MINI / f"{variant}.py")).model
    config.num_queries = 10
    return randomize(instantiate(config), std=0.05).train()


def pixels(kind: str, height: int, width: int) -> Tensor:
    if kind == "random":
        return torch.rand(3, height, width) * 255
    return torch.full((3, height, width), {"black": 0.0, "white": 255.0}[kind])


def batch_of(sizes, counts, kind="random", box="whole image") -> list[dict]:
    """Images with objects that all have the same box."""
    batch = []
    for (height, width), count in zip(sizes, counts, strict=True):
        boxes = torch.tensor(BOXES[box]) * torch.tensor([width, height] * 2)
        instances = Instances((height, width), gt_boxes=Boxes(boxes.expand(count, 4)))
        instances.gt_classes = torch.randint(10, (count,))
        batch.append({"image": pixels(kind, height, width), "instances": instances})
    return batch


def assert_all_finite(tensors: dict[str, Tensor | None]) -> None:
    bad = [name for name, x in tensors.items() if x is not None and not x.isfinite().all()]
    assert not bad


BATCHES = {
    "a pixel beside an image": dict(sizes=[(1, 1), (64, 96)], counts=[3, 0], box="point"),
    "a row beside a column": dict(sizes=[(3, 90), (90, 3)], counts=[2, 2], box="line"),
    "a pixel alone": dict(sizes=[(1, 1)], counts=[1], kind="white", box="corner"),
    "no objects": dict(sizes=[(40, 33), (48, 64)], counts=[0, 0], kind="black"),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize("variant", ["dn_detr", "deformable_detr", "sam_detr_pp_smca_dn"])
def test_batches_at_the_limits(variant, name, dtype):
    model, predictions = model_of(variant), []
    hook = model.decoder.register_forward_hook(lambda *x: predictions.append(x[-1]))
    model.zero_grad()
    try:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            losses = model(batch_of(**BATCHES[name]))
    finally:
        hook.remove()
    sum(losses.values()).backward()
    assert_all_finite(predictions[0]._asdict())
    assert_all_finite(losses)
    assert_all_finite({name: x.grad for name, x in model.named_parameters()})


def make_pyramid(count: int, empty: bool) -> list[FeatureLevel]:
    """Levels down to a single cell; the second image is smaller, or has no cell at all."""
    sizes = [(6, 8), (3, 4), (2, 2), (1, 1)][:count]
    valid = [(0, 0) if empty else ((h + 1) // 2, (w + 1) // 2) for h, w in sizes]
    return [make_level(*size, [size, second], 96) for size, second in zip(sizes, valid)]


LOGITS = st.sampled_from([0.0, 1.0, -1.0, 11.6, -11.6, 17.0, -17.0, 90.0, -90.0, 105.0, -105.0])
LOGITS |= st.floats(-1e4, 1e4)


@settings(max_examples=settings.default.max_examples // 2)
@given(
    *(st.sampled_from(DECODERS), st.sampled_from(DTYPES), st.booleans()),
    st.lists(LOGITS, min_size=4, max_size=4),
)
def test_any_references_and_images_without_a_cell(variant, dtype, empty, logits):
    model = model_of(variant)
    reference = torch.tensor(logits).expand(2, 10, 4).clone().requires_grad_()
    queries = model.queries(make_pyramid(1, False))
    content = queries.content + torch.randn(2, 10, 96)
    model.zero_grad()
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        pyramid = model.encoder(make_pyramid(len(model.neck.projections), empty))
        predictions = model.decoder(queries._replace(content=content, reference=reference), pyramid)
    losses = model.criterion(predictions, make_targets((3, 2)))
    sum(losses.values()).backward()
    assert_all_finite({**predictions._asdict(), **losses, "reference": reference.grad})
    assert_all_finite({name: x.grad for name, x in model.named_parameters()})


@pytest.mark.parametrize("gamma", [0.5, -1.0])
def test_focus_whose_gradient_is_not_finite_is_refused(gamma):
    with pytest.raises(ValueError, match=f"gamma is {gamma}, must be 0 or at least 1"):
        SetCriterion(None, gamma=gamma)


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan")])
def test_a_mean_over_nothing_is_refused(weight):
    with pytest.raises(ValueError, match=f"nothing_weight is {weight}, must be in"):
        SoftmaxCriterion(None, nothing_weight=weight)


@given(st.data())
def test_every_image_has_a_cell_on_every_level_however_large_the_others_are(data):
    neck = model_of("deformable_detr").neck
    (height, width), (rows, columns) = data.draw(
        st.tuples(*[st.tuples(*[st.integers(1, 300)] * 2)] * 2)
    )
    padding = torch.ones(1, max(height, rows), max(width, columns), dtype=torch.bool)
    padding[:, :rows, :columns] = False
    features = {
        name: torch.zeros(1, channels, *(-(-x // stride) for x in padding.shape[1:]))
        for (name, channels), stride in zip(neck.in_channels.items(), (8, 16, 32))
    }
    with torch.no_grad():
        levels = neck(features, padding)
    assert len(levels) == 4
    for level in levels:
        assert not level.padding[0, 0]
        assert level.position.isfinite().all()


@pytest.mark.parametrize("width", [1, 2])
@pytest.mark.parametrize("make", ["backbone", "extra level"])
def test_bfloat16_gradients_of_a_stride_over_narrow_maps(make, width):
    model = model_of("deformable_detr")
    if make == "backbone":
        convolution = model.backbone.res4[0].conv1
    else:
        convolution = model.neck.projections[-1][0]
    x = torch.randn(2, convolution.in_channels, 5, width).to(memory_format=torch.channels_last)
    gradients = []
    for low in (True, False):
        del [torch.full((5000,), torch.nan) for _ in range(50)][:]  # what is not written shows
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            out = convolution(x)
        out.float().sin().sum().backward()
        gradients.append(convolution.weight.grad)
    scale = gradients[1].abs().max()
    torch.testing.assert_close(gradients[0] / scale, gradients[1] / scale, atol=0.02, rtol=0)
