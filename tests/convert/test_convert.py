"""Renaming of weights: both directions are exact, and unknown parts are errors."""

from __future__ import annotations

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.modeling.backbone.resnet import BasicStem, ResNet
from torch.testing import assert_close
from torchvision.models import resnet18, resnet50

import official
from conftest import MODELS, make_model, randomize
from conversion import assert_same, small_official
from original_detr import make_original
from samdetr import convert
from samdetr.convert.rules import rename, rules

VARIANTS = ("r50", "r50_smca", "r50_e50", "r50_ms_smca")  # DC5 changes no weight


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_official_weights_come_back_bit_by_bit(variant):
    weights = official.state_dict(variant)
    assert_same(convert.samdetr_to_official(convert.official_to_samdetr(weights)), weights)


@pytest.mark.parametrize("variant", ["sam_detr", "sam_detr_smca", "sam_detr_pp_smca"])
def test_our_weights_have_the_names_of_an_official_model_of_the_same_sizes(variant):
    weights, model = small_official(variant)
    assert_same(convert.samdetr_to_official(model.state_dict()), weights)
    assert_same(convert.official_to_samdetr(weights), model.state_dict())


def test_denoising_queries_have_no_place_in_the_official_model():
    weights, model = small_official()
    state = {**model.state_dict(), "denoising.labels.weight": torch.zeros(5, 64)}
    assert_same(convert.samdetr_to_official(state), weights)


def test_a_model_that_the_official_code_cannot_build_is_an_error():
    with pytest.raises(ValueError, match="not a SAM-DETR"):
        convert.samdetr_to_official(make_model("detr").state_dict())
    state = small_official()[1].state_dict()
    with pytest.raises(ValueError, match="unknown parts: neck.extra.weight"):
        convert.samdetr_to_official({**state, "neck.extra.weight": torch.zeros(1)})
    gateless = {k: v for k, v in state.items() if ".position_gate." not in k}
    with pytest.raises(ValueError, match="without parts of the official one: .*attn2"):
        convert.samdetr_to_official(gateless)


@pytest.mark.slow
def test_unknown_parts_of_a_foreign_model_are_an_error():
    weights, _ = small_official()
    with pytest.raises(ValueError, match="unknown parts: mask_head.weight"):
        convert.official_to_samdetr({**weights, "mask_head.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="unknown parts: mask_head.weight"):
        convert.detr_to_samdetr({**make_original().state_dict(), "mask_head.weight": torch.ones(1)})


def test_rows_of_cocos_80_classes_come_back_and_the_others_never_fire():
    heads = {"decoder.heads.0.classes.weight": torch.randn(80, 4)}
    heads["decoder.heads.0.classes.bias"] = torch.randn(80)

    spread = convert.coco91(heads)

    assert_same(convert.coco80(spread), heads)
    unused = [i for i in range(91) if i not in convert.coco_class_rows(91)]
    x = 100 * torch.randn(3, 4)
    logits = torch.nn.functional.linear(x, *spread.values())
    assert logits.shape == (3, 91) and len(unused) == 11
    assert logits[:, unused].sigmoid().max() < 1e-30


def test_another_number_of_class_rows_is_an_error():
    heads = {"decoder.heads.0.classes.weight": torch.randn(20, 4)}
    with pytest.raises(ValueError, match=r"classes\.weight has 20 rows, expected .* 80"):
        convert.coco91(heads)
    with pytest.raises(ValueError, match="expected a row for each COCO id up to 90, got 20 rows"):
        convert.coco80(heads)


def test_a_detr_for_the_baseline_has_a_class_head_at_the_focal_prior():
    original = make_original().state_dict()
    found = convert.detr_to_baseline(original)
    head = {k: found.pop(k) for k in list(found) if ".classes." in k}
    assert_same(found, convert.detr_to_samdetr(original))
    weight, bias = head["decoder.heads.0.classes.weight"], head["decoder.heads.0.classes.bias"]
    assert weight.shape == (5, 64) and not weight.any()
    assert_close(bias.sigmoid(), torch.full((5,), 0.01))


def test_a_whole_detr_keeps_its_classes_beside_its_no_object():
    original = make_original().state_dict()
    found = convert.detr_to_softmax(original)
    for kind in ("weight", "bias"):
        rows = original[f"class_embed.{kind}"]
        assert torch.equal(found[f"decoder.heads.0.classes.{kind}"], rows[:-1])
        assert torch.equal(found[f"decoder.heads.0.nothing.{kind}"], rows[-1:])
    model = LazyConfig.load(str(MODELS / "detr_softmax.py")).model
    model.neck.dim, model.num_classes, model.num_queries = 64, 5, 12
    model.encoder.layer.hidden_dim = model.decoder.layer.hidden_dim = 48
    model.encoder.num_layers, model.decoder.levels = 2, [0, 0]
    ours = instantiate(model)
    ours.load_state_dict(found, strict=True)
    assert_same(ours.state_dict(), found)


@pytest.mark.slow
@pytest.mark.parametrize(("depth", "make"), [(18, resnet18), (50, resnet50)])
def test_a_resnet_of_detectron2_classifies_as_torchvisions_with_its_weights(depth, make):
    images = torch.randn(4, 3, 64, 96)
    twin = randomize(make(num_classes=7), std=0.01).train()
    with torch.no_grad():
        twin(images)  # its batch norms have statistics, and count what they have seen
    options = {} if depth == 18 else dict(stride_in_1x1=False)
    stages = ResNet.make_default_stages(depth, norm="FrozenBN", **options)
    ours = ResNet(BasicStem(norm="FrozenBN"), stages, num_classes=7)

    ours.load_state_dict(convert.torchvision_to_detectron2(twin.state_dict()), strict=True)

    with torch.no_grad():
        wanted = twin.eval()(images)
        assert_close(
            ours(images)["linear"] / wanted.std(), wanted / wanted.std(), atol=1e-4, rtol=0
        )


def test_names_go_both_ways_and_longer_ones_come_first():
    pairs = [("a.#", "one.#"), ("a.#.b", "two.#"), ("c", "three.0")]
    there, back = rules(pairs), rules([(new, old) for old, new in pairs])
    names = {"a.12.x": "one.12.x", "a.3.b.weight": "two.3.weight", "c.x": "three.0.x", "cx": "cx"}
    assert {name: rename(name, there) for name in names} == names
    assert {rename(name, back): name for name in names.values()} == names
