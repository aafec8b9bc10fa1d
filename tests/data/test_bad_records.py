"""Odd annotations in Detectron2's own dicts, and their evaluation."""

import copy
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, BoxMode, Instances
from hypothesis import given
from hypothesis import strategies as st

from bad_annotations import assert_boxes, corners, dropped, numbers, seen, sides
from coco_files import Registry, write_coco
from samdetr.data import DataError, load_detection_dataset
from samdetr.evaluation import DetectionEvaluator, FasterDetectionEvaluator

CLASSES = ["cat", "dog", "newt"]
EVALUATORS = [DetectionEvaluator, FasterDetectionEvaluator]


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Three images, the first two of them with two boxes."""
    _, folder = write_coco(tmp_path_factory.mktemp("records"), [[], [], []])
    box = {"bbox": [5, 5, 10, 10], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 1}
    other = {"bbox": (1.5, 2, 9, 12), "bbox_mode": 0, "category_id": np.int64(2), "iscrowd": 0}
    return [
        {
            "file_name": f"{folder}/{index}.png",
            "width": 40,
            "height": 30,
            "image_id": f"image {index}",
            "annotations": [] if index == 2 else copy.deepcopy([box, other]),
        }
        for index in range(3)
    ]


def load(records, **metadata):
    with Registry() as registry:
        metadata = {"thing_classes": CLASSES, **metadata}
        return load_detection_dataset(registry.add_function(lambda: records, **metadata))


annotations = st.fixed_dictionaries(
    {
        "bbox": st.tuples(numbers, numbers, sides, sides).flatmap(
            lambda x: st.sampled_from([x, list(x), np.array(x)])
        ),
        "bbox_mode": st.sampled_from([BoxMode.XYXY_ABS, BoxMode.XYWH_ABS, 0, 1]),
        "category_id": st.integers(0, 2),
    },
    optional={"iscrowd": st.sampled_from([0, 1])},
)


@given(lists=st.tuples(*[st.lists(annotations, max_size=4)] * 3))
def test_boxes_of_either_mode_are_as_the_oracle_has_them_or_are_counted(records, lists):
    given = [{**record, "annotations": x} for record, x in zip(records, lists)]
    before = copy.deepcopy(given)
    parts = [
        [seen(corners(*x["bbox"]) if x["bbox_mode"] == 1 else x["bbox"]) for x in one]
        for one in lists
    ]
    flat = [box for one in parts for box in one]
    pairs = [
        [(box, x["category_id"]) for box, x in zip(boxes, one) if box and not x.get("iscrowd")]
        for boxes, one in zip(parts, lists)
    ]
    if flat and not any(pairs):
        with pytest.raises(DataError, match="boxes of .* are not trained on"):
            load(given)
        return
    with dropped() as counts:
        loaded = load(given)
    assert str(given) == str(before)
    assert sum(counts) == len(flat) - sum(map(len, pairs))
    assert_boxes(loaded, pairs)


@pytest.mark.parametrize(
    "wrong", [{"bbox_mode": None}, {"bbox_mode": BoxMode.XYXY_REL}, {"category_id": 3}]
)
def test_the_image_and_the_annotation_are_named(records, wrong):
    given = copy.deepcopy(records)
    given[1]["annotations"][1].update(wrong)
    (field,) = wrong
    with pytest.raises(DataError, match=rf"image 1, .*1.png: annotations\[1\] has .*{field}="):
        load(given)
    if field == "category_id":
        with pytest.raises(DataError, match="category_id=-1"):
            given[1]["annotations"][1]["category_id"] = -1
            load(given, thing_classes=None)


def test_two_images_with_the_same_id_are_refused(records):
    with pytest.raises(DataError, match="image 3, .*0.png has image_id='image 0'"):
        load([*records, records[0]])


def perfect(evaluator, records):
    """The figures for detections that are those boxes of a class that start in the images."""
    evaluator.reset()
    for record in records:
        truth = [x for x in record["annotations"] if min(x["bbox"][:2]) >= 0]
        found = Instances((30, 40))
        boxes = [BoxMode.convert(list(x["bbox"]), x["bbox_mode"], 0) for x in truth]
        found.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).view(-1, 4))
        found.pred_classes = torch.tensor([x["category_id"] for x in truth], dtype=torch.int64)
        found.scores = torch.ones(len(truth))
        evaluator.process([record], [{"instances": found}])
    return evaluator.evaluate()["bbox"]


def coco(folder, added=(), **changes):
    """A file of three images with a box each, whose entries are changed by functions of them."""
    json_file, image_root = write_coco(folder, [[[5, 5, 10, 10]], [[8, 8, 20, 9]], [[2, 2, 9, 9]]])
    contents = json.loads(Path(json_file).read_text())
    for kind, change in changes.items():
        for entry in contents[kind]:
            change(entry)
    contents["annotations"] += [{"image_id": 0, "category_id": 1, "bbox": box} for box in added]
    Path(json_file).write_text(json.dumps(contents))
    return json_file, image_root


def figures_of(evaluator, files, output_dir=None):
    with Registry() as registry:
        name = registry.add(*files)
        return perfect(evaluator(name, output_dir), load_detection_dataset(name))


@pytest.mark.parametrize("evaluator", EVALUATORS)
@pytest.mark.parametrize("number", [lambda i: i - 1, lambda i: 7, lambda i: None])
def test_ids_of_annotations_do_not_count_in_evaluation(tmp_path, evaluator, number):
    files = coco(tmp_path, annotations=lambda entry: entry.update(id=number(entry["id"])))
    assert figures_of(evaluator, files)["AP"] == pytest.approx(100)


@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_results_have_the_ids_of_the_file(tmp_path, evaluator):
    change = {
        "images": lambda entry: entry.update(id=2**53 - entry["id"]),
        "annotations": lambda entry: entry.update(
            image_id=2**53 - entry["image_id"], category_id=-40
        ),
        "categories": lambda entry: entry.update(id={1: -40, 2: -(2**53)}[entry["id"]]),
    }
    figures = figures_of(evaluator, coco(tmp_path, **change), str(tmp_path / "out"))
    assert figures["AP"] == pytest.approx(100)
    results = json.loads((tmp_path / "out/coco_instances_results.json").read_text())
    assert {x["category_id"] for x in results} == {-40}
    assert {x["image_id"] for x in results} == {2**53, 2**53 - 1, 2**53 - 2}


@pytest.mark.parametrize("evaluator", EVALUATORS)
@pytest.mark.parametrize("place", [0, 3])
@pytest.mark.parametrize("value", [math.nan, math.inf, 10**400])
def test_boxes_that_are_not_finite_are_not_evaluated(tmp_path, caplog, evaluator, place, value):
    odd = [5, 5, 10, 10]
    odd[place] = value
    assert figures_of(evaluator, coco(tmp_path, added=[odd]))["AP"] == pytest.approx(100)
    assert "1 of 4 boxes are not four finite numbers" in caplog.text


def test_ids_of_images_may_be_text_where_the_evaluator_takes_it(tmp_path):
    change = {
        "images": lambda entry: entry.update(id=f"image {entry['id']}"),
        "annotations": lambda entry: entry.update(image_id=f"image {entry['image_id']}"),
    }
    files = coco(tmp_path, **change)
    assert figures_of(DetectionEvaluator, files)["AP"] == pytest.approx(100)
    with pytest.raises(DataError, match="ids that are text"):
        figures_of(FasterDetectionEvaluator, files)


def test_a_truth_that_cannot_be_read_is_named_by_the_evaluator(tmp_path):
    json_file, image_root = coco(tmp_path)
    Path(json_file).write_text('{"images": [')
    with Registry() as registry, pytest.raises(DataError, match=r"boxes\.json"):
        DetectionEvaluator(registry.add(json_file, image_root))
