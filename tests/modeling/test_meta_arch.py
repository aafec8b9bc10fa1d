"""The whole model by Detectron2's contract, in miniature."""

import pytest
import torch
from detectron2.config import instantiate
from torch.testing import assert_close

from conftest import NUM_CLASSES, VARIANTS, make_batch, make_config, make_model, randomize

LOSSES = {f"loss_{x}{suffix}" for x in ("ce", "bbox", "giou") for suffix in ("_0", "_1", "")}


def make_noisy_model(variant="sam_detr"):
    """A model past the zeros it starts with, whose backbone still gives moderate numbers."""
    model = make_model(variant)
    randomize(model.decoder, std=0.1)
    return model


def predictions_of(model, batch):
    """What a hook on the decoder sees."""
    seen = []
    handle = model.decoder.register_forward_hook(lambda *args: seen.append(args[2]))
    with torch.no_grad():
        model(batch)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("counts", [(0, 0), (20, 1)])
def test_every_batch_has_the_same_finite_losses_and_gradients_for_all_parameters(variant, counts):
    model = make_noisy_model(variant)
    losses = model(make_batch(counts=counts))
    assert set(losses) == LOSSES
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_one_config_value_sets_the_dropout_of_the_whole_transformer(variant, dropout):
    model = make_model(variant, encoder__layer__dropout=dropout)
    rates = [x.p for x in model.modules() if isinstance(x, torch.nn.Dropout) and x.p]
    assert len(rates) == (3 + 4 * 3 if dropout else 0)  # an encoder layer has 3, a decoder layer 4
    batch = make_batch()
    trained, inferred = predictions_of(model.train(), batch), predictions_of(model.eval(), batch)
    assert trained.logits.allclose(inferred.logits, atol=1e-5) == (dropout == 0)


def test_images_are_normalised_then_padded_with_zeros_to_the_largest():
    model, batch = make_model(), make_batch(sizes=((20, 30), (10, 45)), counts=(1, 1))
    images, padding = model.batch(batch)
    assert images.tensor.shape == (2, 3, 20, 45)
    for i, (height, width) in enumerate(((20, 30), (10, 45))):
        expected = torch.zeros(3, 20, 45)
        mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
        pixels = batch[i]["image"].float().permute(1, 2, 0)
        expected[:, :height, :width] = ((pixels - mean) / std).permute(2, 0, 1)
        assert_close(images.tensor[i], expected)
        assert not padding[i, :height, :width].any()
        assert padding[i].sum() == 20 * 45 - height * width


def test_detections_are_scaled_to_the_size_asked_for_or_that_of_the_image():
    model, batch = make_model().eval(), make_batch()
    del batch[0]["instances"]  # inference needs none
    found = [x["instances"] for x in model(batch)]
    assert [x.image_size for x in found] == [(48, 64), (40, 33)]
    assert [len(x) for x in found] == [60, 60]  # 12 queries and 5 classes, fewer than 100
    batch[1].update(height=400, width=99)
    larger = model(batch)[1]["instances"]
    assert larger.image_size == (400, 99)
    scale = torch.tensor([3.0, 10, 3, 10])
    assert_close(larger.pred_boxes.tensor, found[1].pred_boxes.tensor * scale)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"neck__in_channels__res3": 95}, "asks for 95 channels of 'res3', .*{'res3': 96}"),
        ({"neck__in_channels__res9": 96}, "asks for 96 channels of 'res9'"),
        ({"decoder__levels": [0, 1]}, r"decoder.levels is \[0, 1\], .* 1 level"),
        ({"queries__num_queries": 11}, "queries.num_queries is 11, .* has 12"),
    ],
)
def test_parts_that_do_not_fit_are_an_error(overrides, message):
    with pytest.raises(ValueError, match=message):
        instantiate(make_config(**overrides))


def test_a_class_the_model_has_not_is_an_error_that_names_the_image():
    batch = make_batch()
    batch[0]["file_name"] = "a.jpg"
    batch[0]["instances"].gt_classes[1] = NUM_CLASSES
    with pytest.raises(ValueError, match="a.jpg has class 5, but the model has classes 0 to 4"):
        make_model()(batch)


def test_training_without_ground_truth_is_an_error_that_names_the_image():
    batch = [{"image": torch.zeros(3, 8, 8), "file_name": "a.jpg"}]
    with pytest.raises(ValueError, match="a.jpg has no 'instances'"):
        make_model()(batch)


@pytest.mark.parametrize("variant", VARIANTS)
def test_bfloat16_detects_what_float32_does_and_boxes_stay_float32(variant):
    exact = make_noisy_model(variant).eval()
    rough = make_model(variant, inference_dtype="bfloat16").eval()
    rough.load_state_dict(exact.state_dict())
    seen = []
    rough.encoder.register_forward_hook(lambda *args: seen.extend(args[2]))
    batch = make_batch()
    (logits, boxes), (rough_logits, rough_boxes) = (
        predictions_of(x, batch) for x in (exact, rough)
    )
    # So the encoder was in lower precision, but not the positions.
    assert (rough_logits != logits).any()
    assert {x.position.dtype for x in seen} == {torch.float32}
    assert rough_boxes.dtype == rough_logits.dtype == torch.float32
    assert_close(rough_logits, logits, atol=0.05 * float(logits.detach().std()), rtol=0.02)
    assert_close(rough_boxes, boxes, atol=0.02, rtol=0)


def test_attention_to_other_levels_than_the_necks_is_an_error():
    encoder = make_config("sam_detr_pp").encoder  # three levels
    with pytest.raises(ValueError, match=r"encoder.layers.0.attention.num_levels is 3, .* has 1"):
        make_model("sam_detr", encoder=encoder)
