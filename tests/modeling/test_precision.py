"""Models in 16 and 64 bits, and autocast: where float32 stays, and how far the numbers move."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from torch.testing import assert_close

from conftest import make_batch, make_model, randomize
from samdetr import Predictor, model_zoo
from samdetr.engine import ConfigError, load_config
from samdetr.modeling import Denoising
from toy import ToyModel

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "tests" / "data" / "inputs" / "images"
MINI = "mini/sam_detr_smca"
NAMES = sorted(x.stem for x in (ROOT / "configs" / "mini").glob("*.py"))
MODELS = [
    *(f"mini/{x}" for x in NAMES if "dn" not in x),  # denoising is for training
    *(f"mini/ablations/table{x}" for x in ("3_row2_average", "4_row2_image", "5_random")),
]
TOLERANCES = {torch.float16: 0.05, torch.bfloat16: 0.05, torch.float64: 1e-4}  # of scores

VARIANTS = {
    "detr": {},
    "sam_detr": {},
    "sam_detr_smca": {
        "denoising": L(Denoising)(num_classes="${model.num_classes}", dim="${model.neck.dim}")
    },
}


def losses_of(model, batch, enabled):
    """Losses with the same denoising queries every time, what was seen on the way, gradients."""
    seen = {}
    hooks = [
        getattr(model, name).register_forward_hook(lambda *x, name=name: seen.update({name: x[-1]}))
        for name in ("neck", "decoder")
    ]
    torch.manual_seed(3)
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
        losses = model(batch)
    sum(losses.values()).backward()
    for hook in hooks:
        hook.remove()
    return losses, seen, {name: x.grad for name, x in model.named_parameters()}


@pytest.mark.parametrize("variant", VARIANTS)
def test_losses_boxes_and_positions_stay_float32_and_losses_near_their_value(variant):
    model = randomize(make_model(variant, **VARIANTS[variant]), std=0.02).train()
    batch = make_batch(counts=(3, 2))

    expected, wanted, _ = losses_of(model, batch, enabled=False)
    losses, seen, gradients = losses_of(model, batch, enabled=True)

    assert seen["neck"][0].tokens.dtype == torch.bfloat16  # it is on
    assert_close(seen["neck"][0].position, wanted["neck"][0].position, rtol=0, atol=0)
    tensors = [*losses.values(), *seen["decoder"], *gradients.values()]
    assert {x.dtype for x in tensors} == {torch.float32}
    assert all(x.isfinite().all() for x in tensors)
    for name, value in expected.items():
        assert_close(losses[name], value, rtol=0.05, atol=0.02, msg=name)


@pytest.mark.parametrize("variant", VARIANTS)
def test_heads_are_not_rounded(variant):
    model = randomize(make_model(variant)).train()
    decoder, x, reference = model.decoder, torch.randn(2, 12, 64), torch.randn(2, 12, 4)
    with torch.autocast("cpu", torch.bfloat16):
        found = decoder.predict(0, x.bfloat16(), reference)
    assert_close(found, decoder.predict(0, x.bfloat16().float(), reference), rtol=0, atol=0)


def detect(model, batch):
    """Predictions of all layers, and detections."""
    seen = []
    handle = model.eval().decoder.register_forward_hook(lambda *args: seen.append(args[2]))
    with torch.no_grad():
        found = [x["instances"] for x in model(batch)]
    handle.remove()
    return seen[0], found


@pytest.mark.parametrize("name", MODELS)
def test_every_model_detects_in_16_and_64_bits_what_it_does_in_32(name):
    config = load_config(str(ROOT / "configs" / f"{name}.py")).model
    config.num_queries = 12
    model, batch = instantiate(config), make_batch(((32, 48), (40, 24)))
    randomize(model.decoder, std=0.02)
    (logits, boxes), _ = detect(model, batch)

    for dtype, tolerance in TOLERANCES.items():
        predictions, detections = detect(deepcopy(model).to(dtype), batch)
        assert {x.dtype for x in predictions} == {torch.promote_types(dtype, torch.float32)}
        scores, wanted = predictions.logits.sigmoid().float(), logits.sigmoid()
        assert_close(scores, wanted, rtol=0, atol=tolerance)
        assert_close(predictions.boxes.float(), boxes, rtol=0, atol=tolerance)
        for found in detections:
            assert len(found) and found.pred_boxes.tensor.isfinite().all()
            x, y = found.pred_boxes.get_centers().unbind(1)
            height, width = found.image_size
            assert (x >= 0).all() and (x <= width).all() and (y >= 0).all() and (y <= height).all()


@pytest.mark.slow
def test_the_shipped_model_keeps_its_scores_and_boxes_in_every_precision():
    files = sorted(IMAGES.glob("*.png"))[:4]
    wanted = Predictor(MINI, device="cpu", threshold=0, batch_size=4)(files)
    for dtype, tolerance in TOLERANCES.items():
        given = str(dtype).removeprefix("torch.") if dtype == torch.float16 else dtype
        predictor = Predictor(MINI, device="cpu", threshold=0, batch_size=4, dtype=given)
        assert predictor.model.dtype == dtype
        for x, y in zip(predictor(files), wanted):
            assert_close(x.scores.to(y.scores), y.scores, rtol=0, atol=tolerance)
            sure = y.scores > 0.3
            assert_close(x.pred_classes[sure], y.pred_classes[sure])
            boxes = x.pred_boxes.tensor.float(), y.pred_boxes.tensor
            assert_close(*(z[sure] for z in boxes), rtol=0, atol=10 * tolerance)  # pixels


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_only_weights_of_products_are_rounded_and_gradients_follow(dtype):
    model = randomize(make_model("sam_detr_smca")).train()
    sum(model(make_batch()).values()).backward()
    before = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    before = {name: x.detach().clone() for name, x in before.items()}

    model.to(dtype)

    for name, x in [*model.named_parameters(), *model.named_buffers()]:
        exact = x.dim() == 1 or name.startswith(("queries.", "decoder.heads.", "pixel_"))
        assert x.dtype == (torch.float32 if exact else dtype), name
        assert x.grad is None or x.grad.dtype == x.dtype, name
        if exact:
            assert_close(x.detach(), before[name], rtol=0, atol=0, msg=name)
    assert {x.dtype for x in model.float().parameters()} == {torch.float32}
    assert {x.dtype for x in model.to(dtype).double().parameters()} == {torch.float64}


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.bfloat16, 0.05), (torch.float64, 1e-4)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_models_train_in_bfloat16_and_float64(variant, dtype, rtol):
    model = randomize(make_model(variant, **VARIANTS[variant]), std=0.02).train()
    batch = make_batch(counts=(3, 2))
    torch.manual_seed(3)
    wanted = model(batch)

    model.to(dtype)
    torch.manual_seed(3)
    losses = model(batch)
    sum(losses.values()).backward()

    # Other denoising queries are drawn in float64, which the others do not see.
    for name in [x for x in wanted if not x.endswith("_dn")]:
        assert_close(losses[name].float(), wanted[name], rtol=rtol, atol=rtol / 2, msg=name)
    assert all(x.grad.isfinite().all() for x in model.parameters())


def test_precisions_that_do_not_exist_or_do_not_work_are_refused():
    with pytest.raises(ConfigError, match="dtype is int8, expected one of float32, float16"):
        Predictor(MINI, device="cpu", dtype="int8")
    cfg = model_zoo.get_config(MINI)
    cfg.model = L(ToyModel)()
    with pytest.raises(ConfigError, match="dtype is float16, but ToyModel needs float32"):
        Predictor(cfg, "", "cpu", dtype="float16")
