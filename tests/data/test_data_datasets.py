"""Loading a data set: what is missing or wrong is said, and unusable boxes are left out."""

import math
import os
import re

import pytest
from detectron2.data import MetadataCatalog

from coco_files import Registry, write_coco
from samdetr.data import DataError, load_detection_dataset

GOOD = [5, 5, 10, 10]


@pytest.fixture
def registry():
    registry = Registry()
    yield registry
    registry.clear()


def warnings(caplog):
    return [r.getMessage() for r in caplog.records if "not trained on" in r.getMessage()]


def boxes(records):
    return [[annotation["bbox"] for annotation in record["annotations"]] for record in records]


@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        ([5, 5, 0, 10], "without width or height"),
        ([20, 20, -10, 5], "without width or height"),
        ([math.nan, 5, 10, 10], "without four finite numbers"),
        ([40, 5, 10, 10], "outside the image"),
        ([5, -11, 10, 10], "outside the image"),
        ([39.999, 5, 10, 10], "outside the image"),
    ],
)
def test_a_bad_box_is_left_out_and_counted(tmp_path, registry, caplog, bad, kind):
    name = registry.add(*write_coco(tmp_path, [[GOOD], [GOOD, bad], [bad]]))
    records = load_detection_dataset(name)
    assert boxes(records) == [[GOOD], [GOOD], []]
    (warning,) = warnings(caplog)
    assert f"2 of 4 boxes of data set '{name}' are not trained on, 2 {kind}: " in warning
    assert f"{tmp_path}/images/1.png: annotations[1], " in warning


def test_only_bad_boxes_are_an_error(tmp_path, registry):
    name = registry.add(*write_coco(tmp_path, [[[5, 5, 0, 10]], [[50, 5, 1, 1]], []]))
    with pytest.raises(DataError, match=f"2 of 2 boxes of data set '{name}' are not trained"):
        load_detection_dataset(name)


def test_images_without_objects_stay_unless_told_otherwise(tmp_path, registry):
    crowd = {"bbox": GOOD, "iscrowd": 1}
    images = [[GOOD], [], [[5, 5, 0, 10]], [crowd]]
    name = registry.add(*write_coco(tmp_path, images))
    assert len(load_detection_dataset(name, filter_empty=False)) == 4
    assert boxes(load_detection_dataset(name, filter_empty=True)) == [[GOOD]]


def test_sets_are_joined_in_order(tmp_path, registry):
    names = [
        registry.add(*write_coco(tmp_path / part, [[box]]))
        for part, box in (("a", GOOD), ("b", [1, 1, 2, 2]))
    ]
    assert boxes(load_detection_dataset(names, num_classes=2)) == [[GOOD], [[1, 1, 2, 2]]]


def test_sets_of_different_categories_are_not_joined(tmp_path, registry):
    names = [
        registry.add(*write_coco(tmp_path / word, [[GOOD]], categories=("cat", word)))
        for word in ("dog", "cow")
    ]
    with pytest.raises(ValueError, match="thing_classes"):
        load_detection_dataset(names)


def test_missing_annotations_are_looked_for_aloud(tmp_path, registry, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", "/elsewhere")
    name = registry.add(str(tmp_path / "no.json"), str(tmp_path))
    with pytest.raises(DataError) as error:
        load_detection_dataset(name)
    assert f"'{name}': json_file {tmp_path}/no.json does not exist" in str(error.value)
    assert "DETECTRON2_DATASETS, now '/elsewhere'" in str(error.value)


def test_missing_images_are_counted_and_a_wrong_folder_is_an_error(tmp_path, registry, caplog):
    json_file, image_root = write_coco(tmp_path, [[GOOD], [GOOD]])
    name = registry.add(json_file, str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=f"image_root {tmp_path}/nowhere does not exist"):
        load_detection_dataset(name)
    os.remove(tmp_path / "images" / "0.png")
    name = registry.add(json_file, image_root)
    assert len(load_detection_dataset(name)) == 2
    assert f"1 of 2 image files of data set '{name}' do not exist: {image_root}/0" in caplog.text
    name = registry.add(json_file, str(tmp_path))
    with pytest.raises(DataError, match="2 of 2 image files .* do not exist"):
        load_detection_dataset(name)


def test_detectron2s_own_sets_are_looked_for_too(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name, attribute in (("coco_2017_train", "json_file"), ("voc_2007_test", "dirname")):
        path = os.path.abspath(getattr(MetadataCatalog.get(name), attribute))
        if os.path.exists(path):
            pytest.skip(f"{name} is here")
        with pytest.raises(DataError, match=rf"{re.escape(path)}.*DETECTRON2_DATASETS"):
            load_detection_dataset(name)


def test_an_unknown_name_gets_suggestions():
    with pytest.raises(DataError, match="'mini_vall' is not registered.*mini_val"):
        load_detection_dataset("mini_vall")


def test_an_empty_set_is_an_error(registry):
    name = registry.add_function(list)
    with pytest.raises(DataError, match=f"'{name}' has no images"):
        load_detection_dataset(name)


@pytest.mark.parametrize("num_classes", [1, 3, 80])
def test_categories_have_to_match_the_model(tmp_path, registry, num_classes):
    name = registry.add(*write_coco(tmp_path, [[GOOD]], categories=("cat", "dog")))
    message = f"'{name}' has 2 categories.*num_classes={num_classes}.*model.num_classes=2"
    with pytest.raises(DataError, match=message):
        load_detection_dataset(name, num_classes=num_classes)
