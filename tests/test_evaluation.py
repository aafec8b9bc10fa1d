"""Evaluators: equal figures by either backend, ground truth of every kind, and detections kept."""

import json
import re

import numpy as np
import pytest
import torch
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, BoxMode, Instances
from omegaconf import OmegaConf

from coco_files import Registry, write_coco
from samdetr import evaluation
from samdetr.data import CocoFiles, load_detection_dataset
from samdetr.engine import ConfigError
from samdetr.evaluation import DetectionEvaluator, FasterDetectionEvaluator, LVISEvaluator

BOXES = [[[5, 5, 10, 10], [20, 10, 15, 12]], [[0, 0, 30, 20]], []]


@pytest.fixture
def registry():
    registry = Registry()
    yield registry
    registry.clear()


def detections(record, classes, noise=0.0, wrong=0):
    """What a model of so many classes would find: the truth with noise, and wrong boxes."""
    found = [BoxMode.convert(x["bbox"], x["bbox_mode"], BoxMode.XYXY_ABS) for x in truth(record)]
    boxes = torch.tensor(found, dtype=torch.float32).view(-1, 4)
    boxes = torch.cat([boxes, torch.rand(wrong, 4).cumsum(1) * 20])
    labels = [x["category_id"] for x in truth(record)]
    labels = torch.tensor([*labels, *torch.randint(classes, (wrong,))], dtype=torch.int64)
    if noise:
        labels = torch.where(torch.rand(len(labels)) < 0.1, (labels + 1) % classes, labels)
    instances = Instances((record["height"], record["width"]))
    instances.pred_boxes = Boxes(boxes + noise * torch.randn_like(boxes))
    instances.scores = torch.rand(len(boxes)).mul(20).round() / 20  # with many ties
    instances.pred_classes = labels
    return instances


def truth(record):
    return [x for x in record["annotations"] if not x.get("iscrowd")]


def evaluate(evaluator, records, found):
    evaluator.reset()
    for record, instances in zip(records, found):
        evaluator.process([record], [{"instances": instances}])
    return evaluator.evaluate()


def assert_equal_figures(figures, expected):
    assert figures["bbox"].keys() == expected["bbox"].keys()
    np.testing.assert_allclose([*figures["bbox"].values()], [*expected["bbox"].values()], rtol=1e-9)


@pytest.mark.slow
def test_both_backends_have_the_same_figures_for_noisy_detections(tmp_path):
    records = load_detection_dataset("mini_val")[:150]
    found = [detections(x, classes=10, noise=4.0, wrong=6) for x in records]
    figures = []
    for kind in (COCOEvaluator, DetectionEvaluator, FasterDetectionEvaluator):
        evaluator = kind("mini_val", output_dir=str(tmp_path))
        for annotation in evaluator._coco_api.dataset["annotations"][::7]:
            annotation["iscrowd"] = 1
        figures.append(evaluate(evaluator, records, found))

    expected, *others = figures
    for figures in others:
        assert_equal_figures(figures, expected)
    assert 1 < expected["bbox"]["AP"] < 60
    assert {f"AP-{digit}" for digit in range(10)} <= expected["bbox"].keys()


@pytest.mark.parametrize("evaluator", [DetectionEvaluator, FasterDetectionEvaluator])
def test_truth_without_area_and_crowds_is_measured_like_truth_with_them(
    tmp_path, registry, evaluator
):
    bare, full = tmp_path / "bare", tmp_path / "full"
    annotations = [[{"bbox": b, "area": b[2] * b[3]} for b in image] for image in BOXES]
    bare_set, full_set = (
        registry.add(*write_coco(*x)) for x in ((bare, BOXES), (full, annotations))
    )
    contents = json.loads((bare / "boxes.json").read_text())
    for annotation in contents["annotations"]:
        del annotation["area"], annotation["iscrowd"]
    (bare / "boxes.json").write_text(json.dumps(contents))
    load_detection_dataset(bare_set)
    records = load_detection_dataset(full_set)
    found = [detections(x, classes=2, noise=1.0, wrong=2) for x in records]

    figures = evaluate(evaluator(bare_set), records, found)

    assert_equal_figures(figures, evaluate(COCOEvaluator(full_set), records, found))


@pytest.mark.parametrize("evaluator", [DetectionEvaluator, FasterDetectionEvaluator])
def test_a_set_of_detectron2s_own_format_has_ap_per_category(tmp_path, registry, evaluator):
    coco = registry.add(*write_coco(tmp_path, [[{"bbox": b} for b in x] for x in BOXES]))
    records = load_detection_dataset(coco)
    records[1]["annotations"][0]["category_id"] = 1
    name = registry.add_function(lambda: records, thing_classes=["cat", "dog"])

    found = [detections(x, classes=2) for x in records]
    found[1] = found[1][:0]  # the dog is missed
    figures = evaluate(evaluator(name), records, found)["bbox"]

    assert figures["AP-cat"] == pytest.approx(100) and figures["AP-dog"] == 0


@pytest.mark.parametrize("evaluator", [DetectionEvaluator, FasterDetectionEvaluator])
def test_detections_are_written_in_the_format_of_cocos_results(tmp_path, registry, evaluator):
    json_file, image_root = write_coco(tmp_path, [[{"bbox": [5, 5, 10, 10], "category_id": 1}]])
    contents = json.loads((tmp_path / "boxes.json").read_text())
    contents["categories"] = [{"id": 40, "name": "dog"}, {"id": 7, "name": "cat"}]
    contents["annotations"][0]["category_id"] = 40
    (tmp_path / "boxes.json").write_text(json.dumps(contents))
    name = registry.add(json_file, image_root)
    records = load_detection_dataset(name)

    evaluate(evaluator(name, str(tmp_path / "out")), records, [detections(records[0], 2)])

    (result,) = json.loads((tmp_path / "out/coco_instances_results.json").read_text())
    assert result["category_id"] == 40 and result["image_id"] == 0
    assert result["bbox"] == [5, 5, 10, 10] and 0 <= result["score"] <= 1


@pytest.mark.parametrize("evaluator", [DetectionEvaluator, FasterDetectionEvaluator])
def test_without_annotations_detections_are_written_and_nothing_is_measured(
    tmp_path, registry, evaluator
):
    json_file, image_root = write_coco(tmp_path, [[], []])
    contents = json.loads((tmp_path / "boxes.json").read_text())
    del contents["annotations"]
    (tmp_path / "boxes.json").write_text(json.dumps(contents))
    assert [*CocoFiles(json_file, image_root).read().names.values()] == ["cat", "dog"]
    name = registry.add(json_file, image_root)
    records = load_detection_dataset(name)

    found = [detections(x, 2, wrong=3) for x in records]
    assert evaluate(evaluator(name, str(tmp_path / "out")), records, found) == {}

    results = json.loads((tmp_path / "out/coco_instances_results.json").read_text())
    assert [x["image_id"] for x in results] == [0] * 3 + [1] * 3


@pytest.mark.parametrize("evaluator", [DetectionEvaluator, FasterDetectionEvaluator])
def test_no_detection_at_all_gives_no_figure(tmp_path, registry, evaluator):
    name = registry.add(*write_coco(tmp_path, BOXES))
    records = load_detection_dataset(name)
    figures = evaluate(evaluator(name), records, [detections(x, 2)[:0] for x in records])
    assert np.isnan(figures["bbox"]["AP"])


@pytest.mark.slow
def test_only_so_many_detections_of_an_image_and_a_category_count(tmp_path):
    records = load_detection_dataset("mini_val")[:20]
    found = [detections(x, classes=10, noise=0.5, wrong=60) for x in records]
    best = [most_certain(x, 4) for x in found]
    options = {"dataset_name": "mini_val", "output_dir": str(tmp_path)}
    for kind in (DetectionEvaluator, FasterDetectionEvaluator):
        expected = evaluate(kind(**options), records, best)
        unlimited = evaluate(kind(**options), records, found)
        assert unlimited["bbox"]["AP"] != pytest.approx(expected["bbox"]["AP"], rel=0.01)
        for limit in (4, OmegaConf.create([1, 2, 4]), (4, 1, 3)):
            figures = evaluate(kind(**options, max_dets_per_image=limit), records, found)
            assert_equal_figures(figures, expected)


def most_certain(found, limit):
    """So many of each class; of equal scores those that come first, as in COCO's code."""
    order = found.scores.argsort(descending=True, stable=True)
    ranks = found.pred_classes[order, None] == found.pred_classes[order]
    return found[order[ranks.tril().sum(1) <= limit]]


@pytest.mark.parametrize(
    ("evaluator", "extra"), [(FasterDetectionEvaluator, "eval"), (LVISEvaluator, "lvis")]
)
def test_a_package_that_is_not_there_is_named_with_its_extra(monkeypatch, evaluator, extra):
    monkeypatch.setattr(evaluation.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=rf"pip install 'samdetr\[{extra}\]'"):
        evaluator("mini_val")


@pytest.mark.parametrize("limit", [0, -1, [1, 10], [1, 10, 0]])
def test_a_limit_of_detections_that_is_none_is_refused_at_once(limit):
    with pytest.raises(ConfigError, match=f"max_dets_per_image is {re.escape(repr(limit))}, exp"):
        DetectionEvaluator("mini_val", max_dets_per_image=limit)
