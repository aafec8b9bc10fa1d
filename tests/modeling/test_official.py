"""The official model's numbers, to its own rounding (fixtures/official/README.md)."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import Tensor, nn

import official
from command_line import run_script
from official import CONFIGS, Tolerance, assert_near, build, tolerance
from samdetr import convert
from samdetr.structures import Predictions

ROOT = Path(__file__).parents[2]
PARAMETERS = {  # of the official training logs; dilation changes none
    "sam_detr_r50_12ep": 58_074_058,
    "sam_detr_r50_smca_12ep": 58_123_306,
    "sam_detr_r50_50ep": 58_073_546,
    "sam_detr_r50_smca_50ep": 58_122_794,
    "sam_detr_pp_r50_12ep": 54_972_298,
    "sam_detr_pp_r50_smca_12ep": 55_021_546,
}


@pytest.fixture(
    scope="module",
    params=[pytest.param(x, marks=[] if x == "r50_smca" else pytest.mark.slow) for x in CONFIGS],
)
def variant(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(variant) -> nn.Module:
    """The config's model with the recipe's weights; `model.seen` keeps what its parts returned."""
    model = build(CONFIGS[variant])
    weights = convert.official_to_samdetr(official.state_dict(variant))
    model.load_state_dict(weights, strict=True)
    seen = model.seen = {}  # a hook that knew the model would keep it until a full collection
    for name in ("neck", "encoder", "decoder", "criterion.matcher"):
        model.get_submodule(name).register_forward_hook(
            lambda module, inputs, output, name=name: seen.__setitem__(name, output)
        )
    return model


def expected(variant: str) -> dict[str, Tensor]:
    return official.expected(variant)["arrays"]


def test_padded_batch_gives_the_official_outputs_of_every_layer(variant, model):
    wanted, atol = expected(variant), tolerance(variant)
    model.eval()
    with torch.no_grad():
        found = [x["instances"] for x in model(official.batch())]

    check_levels(model, wanted, atol.source)
    assert_near(model.seen["decoder"].logits, wanted["pred_logits"], atol.logits)
    assert_near(model.seen["decoder"].boxes, wanted["pred_boxes"], atol.boxes)
    for i, instances in enumerate(found):
        assert_near(instances.scores, wanted["det_scores"][i], atol.score)
        assert unmatched_detections(instances, wanted, i, atol) <= 2  # the last change places


def check_levels(model: nn.Module, wanted: dict, atol: float) -> None:
    """Padding, projected features and positions of each level, and the encoder's output."""
    embeddings = getattr(model.neck, "level_embedding", None)
    for i, level in enumerate(model.seen["neck"]):
        assert torch.equal(level.padding.unflatten(1, level.size), wanted[f"dbg_mask_{i}"])
        assert_near(level.map[:, :8], wanted[f"dbg_src_{i}"], atol)
        sine = level.position if embeddings is None else level.position - embeddings.weight[i]
        sine = sine.transpose(1, 2).unflatten(2, level.size)
        assert_near(torch.cat([sine[:, :8], sine[:, 128:136]], 1), wanted[f"dbg_pos_{i}"], 2e-6)
    memory = torch.cat([level.tokens for level in model.seen["encoder"]], dim=1)
    assert_near(memory[..., :8], wanted["dbg_memory"], atol)


def unmatched_detections(instances, wanted: dict, i: int, atol: Tolerance) -> int:
    """Detections without a partner of the same label; neighbours in score may be swapped."""
    same = instances.pred_classes[:, None] == wanted["det_labels"][i]
    scores = (instances.scores[:, None] - wanted["det_scores"][i]).abs() <= atol.score
    boxes = instances.pred_boxes.tensor[:, None] - wanted["det_boxes"][i]
    found = (same & scores & (boxes.abs().amax(-1) <= atol.pixels)).any(1)
    return int((~found).sum())


def test_single_image_gives_the_official_outputs(variant, model):
    wanted, atol = expected(variant), tolerance(variant)
    model.eval()
    with torch.no_grad():
        model(official.batch()[:1])

    assert_near(model.seen["decoder"].logits[-1, 0], wanted["single_pred_logits"], atol.logits)
    assert_near(model.seen["decoder"].boxes[:, 0], wanted["single_pred_boxes"], atol.boxes)


@pytest.fixture(scope="module")
def predictions(model) -> Predictions:
    """Of a forward pass in training, with its graph; ground truth has no part in it."""
    images, padding = model.train().batch(official.batch())
    return model.predict(images.tensor, padding)[0]


@pytest.mark.slow
@pytest.mark.parametrize("target_set", ["a", "b", "c"])
def test_training_gives_the_official_matches_and_losses(variant, model, predictions, target_set):
    wanted = official.expected(variant)
    losses = model.criterion(predictions, model.targets(official.batch(target_set)))

    assert matches(model.seen["criterion.matcher"]) == as_pairs(wanted["matches"][target_set])
    weighted = wanted["losses"][target_set]["weighted"]
    assert {k: v.item() for k, v in losses.items()} == pytest.approx(weighted, rel=1e-4, abs=0)


@pytest.mark.slow
def test_training_gives_the_official_gradients(variant, model, predictions):
    wanted = official.expected(variant)
    for target_set in "abc" if variant == "r50_smca" else "a":
        model.zero_grad()
        losses = model.criterion(predictions, model.targets(official.batch(target_set)))
        sum(losses.values()).backward(retain_graph=True)

        gradients = official_gradients(model, wanted["trainable"])
        for name, norm in wanted["grad_norm"][target_set].items():
            check_gradient(name, gradients[name], norm, wanted["grad_dot"][target_set][name])
        if target_set == "a":
            assert_near(
                gradients["query_embed.weight"], expected(variant)["grad_query_embed"], 1e-3
            )


def matches(found) -> set[tuple[int, ...]]:
    return set(zip(*(x.tolist() for x in found)))


def as_pairs(layers: list) -> set[tuple[int, ...]]:
    return {
        (layer, image, query, target)
        for layer, images in enumerate(layers)
        for image, pairs in enumerate(images)
        for query, target in zip(*pairs)
    }


def official_gradients(model: nn.Module, names: list[str]) -> dict[str, Tensor]:
    """Gradients under official names; with SMCA one official matrix is two of ours."""
    ours = {name: x.grad for name, x in model.named_parameters() if x.requires_grad}
    gradients = {name: ours.pop(convert.rename(name, convert.OFFICIAL)) for name in names}
    for name, scales in ours.items():
        assert ".cross_attention.prior.scale." in name
        layer, kind = name.split(".")[2], name.split(".")[-1]
        whole = f"transformer.decoder.layers.{layer}.point2.6.{kind}"
        gradients[whole] = torch.cat([gradients[whole], scales])
    return gradients


def check_gradient(name: str, gradient: Tensor, norm: float, dot: float) -> None:
    if norm > 1e-3:
        assert gradient.norm().item() == pytest.approx(norm, rel=5e-3), name
        direction = official.direction(name, tuple(gradient.shape))
        found = (gradient * direction).sum(dtype=torch.float64).item()
        assert found == pytest.approx(dot, abs=2e-2 * norm, rel=0), name
    else:
        assert gradient.norm().item() < 1e-3, name


@pytest.mark.parametrize("config", PARAMETERS)
def test_parameter_count_is_that_of_the_official_logs(config):
    with torch.device("meta"):
        trainable = [x for x in build(config).parameters() if x.requires_grad]

    assert sum(x.numel() for x in trainable) == PARAMETERS[config]


def convert_checkpoint(*arguments: str | Path) -> int:
    return run_script("tools/convert_checkpoint.py", *arguments)


@pytest.mark.slow
def test_converted_file_loads_by_detectron2s_checkpointer(tmp_path):
    weights = official.state_dict("r50_smca")
    source, output = tmp_path / "official.pth", tmp_path / "ours.pth"
    torch.save({"model": weights, "args": argparse.Namespace(lr=1e-4), "epoch": 12}, source)
    assert convert_checkpoint("official", source, output) == 0

    model = build("sam_detr_r50_smca_12ep")
    report = DetectionCheckpointer(model).load(str(output))

    assert set(report) >= {"__author__"}
    wanted = convert.official_to_samdetr(weights)
    assert model.state_dict().keys() == wanted.keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, wanted[name]), name


def test_coco80_keeps_the_rows_of_detectron2s_classes(tmp_path):
    weights = official.state_dict("r50")
    names = [f"class_embed.{i}.{kind}" for i in range(6) for kind in ("weight", "bias")]
    rows = convert.coco_class_rows(91)

    converted = convert.coco80(convert.official_to_samdetr(weights))

    assert rows[:12] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13] and rows[-1] == 90  # no id 12
    assert len(rows) == 80
    for name in names:
        assert torch.equal(converted[convert.rename(name, convert.OFFICIAL)], weights[name][rows])
