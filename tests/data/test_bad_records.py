"""Annotations of every kind in Detectron2's own dicts, and what evaluation makes of odd ones."""

import copy
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, BoxMode, Instances
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bad_annotations import (
    assert_boxes,
    assert_trainable,
    corners,
    numbers,
    objects,
    outcome,
    seen,
    sides,
)
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


def load(records, classes=CLASSES, folder=None, evaluator_type="coco", **options):
    with Registry() as registry:
        metadata = {"thing_classes": classes} if classes else {}
        metadata["evaluator_type"] = evaluator_type
        if folder:
            metadata["image_root"] = str(folder)
        return load_detection_dataset(registry.add_function(lambda: records, **metadata), **options)


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

    loaded, number = outcome(lambda: load(given))

    assert str(given) == str(before)
    parts = [
        [seen(corners(*x["bbox"]) if x["bbox_mode"] == 1 else x["bbox"]) for x in one]
        for one in lists
    ]
    flat = [box for one in parts for box in one]
    if flat and not any(flat):
        assert loaded is None and "No usable box" in number
        return
    assert number == sum(box is None for box in flat)
    pairs = [
        [(box, x["category_id"]) for box, x in zip(boxes, one) if box and not x.get("iscrowd")]
        for boxes, one in zip(parts, lists)
    ]
    assert_boxes(loaded, pairs)


@given(
    image=st.integers(0, 1),
    field=st.sampled_from(["file_name", "width", "height", "image_id", "annotations", None]),
    inner=st.sampled_from(["bbox", "bbox_mode", "category_id", "iscrowd", None]),
    value=st.one_of(
        objects, st.sampled_from([dict.pop, *BoxMode, (1, 2), np.ones(4), b"a", object])
    ),
)
def test_one_wrong_value_anywhere_is_harmless_or_named(records, image, field, inner, value):
    given = copy.deepcopy(records)
    place, key = (given, image) if field is None else (given[image], field)
    if field == "annotations":
        place, key = (given[image][field], 1) if inner is None else (given[image][field][1], inner)
    if value is dict.pop:
        place.pop(key)
    else:
        place[key] = value

    loaded, result = outcome(lambda: load(given))

    if loaded is None:
        assert re.search(rf"data set 'test_set_0'.* image {image}\b|No usable box", result), result
        assert field != "annotations" or "annotations[" in result
        return
    assert_trainable(loaded, len(CLASSES))
    left = sum(len(record["annotations"]) for record in loaded)
    assert left + result == sum(len(record.get("annotations", [])) for record in given)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("bbox_mode", None, r"bbox_mode=None, not BoxMode.XYXY_ABS or BoxMode.XYWH_ABS"),
        ("bbox_mode", BoxMode.XYWHA_ABS, "bbox_mode=.*, not BoxMode.XYXY_ABS or"),
        ("bbox_mode", BoxMode.XYXY_REL, "bbox_mode=.*, not BoxMode.XYXY_ABS or"),
        ("bbox", "four", "bbox='four', not four numbers"),
        ("bbox", [[5, 5, 10, 10]] * 4, "bbox=.*, not four numbers"),
        ("category_id", 3, "category_id=3, not an integer from 0 to 2"),
        ("category_id", True, "category_id=True, not an integer from 0 to 2"),
        ("category_id", 1.0, "category_id=1.0, not an integer from 0 to 2"),
        ("category_id", "1", "category_id='1', not an integer from 0 to 2"),
        ("iscrowd", "0", "iscrowd='0', not 0 or 1"),
    ],
)
def test_the_image_and_the_annotation_are_named(records, field, value, message):
    given = copy.deepcopy(records)
    given[1]["annotations"][1][field] = value
    with pytest.raises(DataError, match=rf"image 1, .*1.png: annotations\[1\] has {message}"):
        load(given)


def test_one_of_the_two_sides_alone_is_refused(records):
    given = copy.deepcopy(records)
    del given[0]["height"]
    with pytest.raises(DataError, match="image 0 has height=None, not a whole number of pixels"):
        load(given)


def test_without_classes_ids_of_categories_are_bounded_all_the_same(records):
    given = copy.deepcopy(records)
    given[0]["annotations"][0]["category_id"] = -1
    with pytest.raises(DataError, match="category_id=-1, not an integer of 0 or more"):
        load(given, classes=None)


def test_names_cannot_steer_the_terminal_from_what_is_logged(tmp_path, records, caplog):
    odd = str(tmp_path / "\x1b[31m.png")
    Image.new("RGB", (40, 30)).save(odd)
    given = copy.deepcopy(records)
    given[0].update(file_name=odd)
    given[0]["annotations"][0]["bbox"] = [5, 5, 0, 10]
    with caplog.at_level("INFO"):
        load(given, classes=["cat", "\x1b]0;dog\x07", "newt"])
    assert "\\x1b[31m.png" in caplog.text and "\\x1b]0;d" in caplog.text
    assert "\x1b" not in "".join(x.getMessage() for x in caplog.records if "31m" in x.getMessage())


def test_two_images_with_the_same_id_are_refused(records):
    with pytest.raises(DataError, match="image 3 has image_id='image 0', not an id that no other"):
        load([*records, records[0]])


def test_a_name_cannot_lead_out_of_the_folder_of_the_set(records):
    folder = Path(records[0]["file_name"]).parent
    (folder / "train").mkdir()
    Image.new("RGB", (40, 30)).save(folder.parent / "secret.png")
    for name in ("../secret.png", "train/../../secret.png", "/../secret.png"):
        led_out = [{**records[0], "file_name": f"{folder}/{name}"}]
        with pytest.raises(DataError, match=f"image 0 has file_name=.*secret.*{folder}"):
            load(led_out, folder=folder)


@pytest.mark.parametrize("end", ["", "/"])
def test_files_elsewhere_are_for_users_own_code_and_not_for_lvis(records, end):
    pytest.importorskip("lvis", reason="pip install --no-deps lvis")
    # Detectron2 makes names of `image_root` and of the last two parts of links in LVIS's files.
    folder = Path(records[0]["file_name"]).parent
    beside = Path(f"{folder}-secret")
    beside.mkdir(exist_ok=True)
    for path in (beside / "0.png", folder.parent / "secret.png"):
        Image.new("RGB", (40, 30)).save(path)
        elsewhere = [{**records[0], "file_name": str(path)}]
        assert load(elsewhere, folder=f"{folder}{end}")[0]["file_name"] == str(path)
        with pytest.raises(DataError, match=f"image 0 has file_name=.*, not a file below {folder}"):
            load(elsewhere, folder=f"{folder}{end}", evaluator_type="lvis")


@pytest.mark.parametrize("result", [None, 7, "records", [None], [7], {"a": 1}, {1}, [{}]])
def test_what_is_no_list_of_images_is_refused(result):
    with pytest.raises(DataError, match="data set 'test_set_0'"):
        load(result)


@pytest.mark.parametrize(
    "error", [TypeError, AttributeError, IndexError, OverflowError, RecursionError, OSError]
)
def test_an_error_in_the_code_that_reads_a_set_names_the_set(error):
    def read():
        raise error("something odd")

    with Registry() as registry, pytest.raises(DataError, match="test_set_0.*something odd"):
        load_detection_dataset(registry.add_function(read))


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


def coco(folder, **changes):
    """A file of three images with a box each, whose entries are changed by functions of them."""
    json_file, image_root = write_coco(folder, [[[5, 5, 10, 10]], [[8, 8, 20, 9]], [[2, 2, 9, 9]]])
    contents = json.loads(Path(json_file).read_text())
    for kind, change in changes.items():
        for entry in contents[kind]:
            change(entry)
    Path(json_file).write_text(json.dumps(contents))
    return json_file, image_root


@pytest.mark.parametrize("evaluator", EVALUATORS)
@pytest.mark.parametrize("number", [lambda i: i - 1, lambda i: -i, lambda i: 7, lambda i: None])
def test_ids_of_annotations_do_not_count_in_evaluation(tmp_path, evaluator, number):
    files = coco(tmp_path, annotations=lambda entry: entry.update(id=number(entry["id"])))
    with Registry() as registry:
        name = registry.add(*files)
        loaded = load_detection_dataset(name)
        assert perfect(evaluator(name), loaded)["AP"] == pytest.approx(100)


@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_results_have_the_ids_of_the_file(tmp_path, evaluator):
    change = {
        "images": lambda entry: entry.update(id=2**53 - entry["id"]),
        "annotations": lambda entry: entry.update(
            image_id=2**53 - entry["image_id"], category_id=-40
        ),
        "categories": lambda entry: entry.update(id={1: -40, 2: -(2**53)}[entry["id"]]),
    }
    with Registry() as registry:
        name = registry.add(*coco(tmp_path, **change))
        loaded = load_detection_dataset(name)
        assert perfect(evaluator(name, str(tmp_path / "out")), loaded)["AP"] == pytest.approx(100)
    results = json.loads((tmp_path / "out/coco_instances_results.json").read_text())
    assert {x["category_id"] for x in results} == {-40}
    assert {x["image_id"] for x in results} == {2**53, 2**53 - 1, 2**53 - 2}


@pytest.mark.parametrize("evaluator", EVALUATORS)
@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**400])
def test_boxes_that_are_not_finite_are_not_evaluated(tmp_path, caplog, evaluator, place, value):
    odd = [5, 5, 10, 10]
    odd[place] = value
    json_file, image_root = coco(tmp_path)
    contents = json.loads(Path(json_file).read_text())
    contents["annotations"].insert(0, {"image_id": 0, "category_id": 1, "bbox": odd})
    Path(json_file).write_text(json.dumps(contents))
    with Registry() as registry:
        name = registry.add(json_file, image_root)
        loaded = load_detection_dataset(name)
        assert perfect(evaluator(name), loaded)["AP"] == pytest.approx(100)
    assert "1 of 4 boxes are with NaN or infinity, and are left out of the eval" in caplog.text


@pytest.mark.parametrize("box", [[5, 5, 0, 10], [5, 5, -4, 10], [50, 5, 10, 10]])
def test_boxes_that_cannot_be_found_are_missed_as_by_cocos_code(tmp_path, box):
    json_file, image_root = coco(tmp_path)
    contents = json.loads(Path(json_file).read_text())
    contents["annotations"].append({"image_id": 0, "category_id": 1, "bbox": box})
    Path(json_file).write_text(json.dumps(contents))
    with Registry() as registry:
        name = registry.add(json_file, image_root)
        figures = perfect(DetectionEvaluator(name), load_detection_dataset(name))
    assert figures["AP"] == pytest.approx(100 * 76 / 101)  # a recall of 3/4


def test_ids_of_images_may_be_text_where_the_evaluator_takes_it(tmp_path):
    change = {
        "images": lambda entry: entry.update(id=f"image {entry['id']}"),
        "annotations": lambda entry: entry.update(image_id=f"image {entry['image_id']}"),
    }
    with Registry() as registry:
        name = registry.add(*coco(tmp_path, **change))
        loaded = load_detection_dataset(name)
        assert perfect(DetectionEvaluator(name), loaded)["AP"] == pytest.approx(100)
        with pytest.raises(DataError, match="ids of its images are text.*DetectionEvaluator"):
            FasterDetectionEvaluator(name)


@pytest.mark.parametrize("evaluator", EVALUATORS)
@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"images": [', "[" * 100_000, '{"images": 1, "annotations": 2}']
)
def test_a_truth_that_cannot_be_read_is_named_by_the_evaluator(tmp_path, evaluator, text):
    json_file, image_root = coco(tmp_path)
    Path(json_file).write_text(text)
    with Registry() as registry:
        name = registry.add(json_file, image_root)
        with pytest.raises(DataError, match=rf"'{name}' cannot be evaluated: .*boxes.json"):
            evaluator(name)


def test_own_dicts_without_ids_are_evaluated(tmp_path, records):
    given = [{key: x for key, x in one.items() if key != "image_id"} for one in records]
    with Registry() as registry:
        name = registry.add_function(lambda: given, thing_classes=CLASSES)
        loaded = load_detection_dataset(name)
        figures = perfect(FasterDetectionEvaluator(name, str(tmp_path)), loaded)
    assert figures["AP-dog"] == figures["AP-newt"] == pytest.approx(100)
