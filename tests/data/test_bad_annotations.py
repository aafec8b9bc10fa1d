"""Annotations in COCO's format as people have them: used, dropped and counted, or named."""

import copy
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bad_annotations import assert_boxes, corners, dropped, numbers, seen, sides
from coco_files import Registry, write_coco
from samdetr.data import CocoFiles, DataError, load_detection_dataset

GOOD = [5, 5, 10, 10]
IDS = [-3, 17, 90]  # of categories
CLASSES = ["cat", "dog", "newt"]
EXPECTED = [[((5, 5, 15, 15), 2)], [((5, 5, 15, 15), 0)], []]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A file of three images and two boxes, and the folder of the images."""
    folder = tmp_path_factory.mktemp("coco")
    boxes = [[{"bbox": GOOD, "category_id": 90}], [{"bbox": GOOD, "category_id": -3}], []]
    json_file, image_root = write_coco(folder, boxes)
    contents = json.loads(Path(json_file).read_text())
    contents["categories"] = [{"id": i, "name": name} for i, name in zip(IDS, CLASSES)][::-1]
    return json_file, image_root, contents


def load(files, contents, **options):
    json_file, image_root, _ = files
    text = contents if isinstance(contents, bytes) else json.dumps(contents).encode()
    Path(json_file).write_bytes(text)
    with Registry() as registry:
        return load_detection_dataset(registry.add(json_file, image_root), **options)


boxes = st.tuples(numbers, numbers, sides, sides).map(list)
annotations = st.fixed_dictionaries(
    {"image_id": st.integers(0, 2), "category_id": st.sampled_from(IDS), "bbox": boxes},
    optional={
        "iscrowd": st.sampled_from([0, 0, 1, True, None]),
        "ignore": st.sampled_from([0, 1]),
        "id": st.integers(-2, 2),
        "area": st.none(),
    },
)


@given(entries=st.lists(annotations, max_size=8))
def test_boxes_are_as_the_oracle_has_them_or_are_counted(files, entries):
    expected = [[] for _ in range(3)]
    for entry in entries:
        box = seen(corners(*entry["bbox"]))
        if box and not entry.get("iscrowd") and not entry.get("ignore"):
            expected[entry["image_id"]].append((box, IDS.index(entry["category_id"])))
    contents = {**files[2], "annotations": entries}
    with dropped() as counts:
        if entries and not any(expected):
            with pytest.raises(DataError, match=f"{len(entries)} of {len(entries)} boxes"):
                load(files, contents)
            return
        assert_boxes(load(files, contents), expected)
    untrained = len(entries) - sum(map(len, expected))
    assert counts == ([untrained] if untrained else [])


def changed(contents, kind, index, **fields):
    contents = copy.deepcopy(contents)
    contents[kind][index].update(fields)
    return contents


@pytest.mark.parametrize("box", [None, "four", [1, 2, 3], [None] * 4, {"a": 1}, [], 5])
def test_what_is_not_a_box_is_dropped_and_counted(files, box):
    with dropped() as counts:
        records = load(files, changed(files[2], "annotations", 1, bbox=box))
    assert counts == [1]
    assert_boxes(records, [EXPECTED[0], [], []])


def test_ids_text_and_null_are_understood(files):
    contents = copy.deepcopy(files[2])
    for entry in contents["annotations"]:
        entry.update(id=0, image_id=f"image {entry['image_id']}", bbox=["5", 5.0, 10, "1e1"])
        entry.update(segmentation=[[1, 2, 3]], iscrowd=None, area=None, keypoints=["a", None])
    for entry in contents["images"]:
        entry.update(id=f"image {entry['id']}", width="40", height=30.0, license=None)
    with dropped() as counts:
        assert_boxes(load(files, contents), EXPECTED)
    assert not counts


def test_crowds_alone_leave_nothing_to_train_on(files):
    entries = [{**entry, "iscrowd": 1} for entry in files[2]["annotations"]]
    with pytest.raises(DataError, match="2 of 2 boxes .* 2 crowds"):
        load(files, {**files[2], "annotations": entries})


@pytest.mark.parametrize("image", [9, None, "nine"])
def test_an_annotation_of_an_unknown_image_is_dropped_and_counted(files, caplog, image):
    records = load(files, changed(files[2], "annotations", 1, image_id=image))
    assert_boxes(records, [EXPECTED[0], [], []])
    assert "1 annotations of images that the file does not have" in caplog.text


def test_whole_numbers_may_be_floats_or_text(files):
    contents = copy.deepcopy(files[2])
    for kind, keys in (("annotations", ("image_id", "category_id")), ("categories", ("id",))):
        for entry, form in zip(contents[kind], (float, str, str)):
            entry.update({key: form(entry[key]) for key in keys})
    for entry in contents["images"]:
        entry.update(id=f"{entry['id']:03}", width=str(entry["width"]))
    contents["annotations"][0].update(iscrowd=False, ignore="0")
    contents["annotations"][1].update(iscrowd="0", bbox=None, segmentation=[[5, 5, 15, 15, 5, 9]])
    records = load(files, contents)
    assert_boxes(records, EXPECTED)
    assert [x["image_id"] for x in records] == ["000", "001", "002"]


def test_what_is_missing_is_read_from_the_image_or_the_id(files):
    contents = copy.deepcopy(files[2])
    del contents["images"][1]["width"]
    contents["categories"][0]["name"] = None
    assert_boxes(load(files, contents), EXPECTED)


@pytest.mark.parametrize("start", ["C:\\data\\images\\", "/home/me/images/", ".//", "images//"])
def test_of_a_path_of_another_machine_the_end_that_exists_is_taken(files, start):
    contents = copy.deepcopy(files[2])
    for entry in contents["images"]:
        entry["file_name"] = start + entry["file_name"]
    assert_boxes(load(files, contents), EXPECTED)


def test_a_test_set_has_no_annotations(files):
    contents = {key: value for key, value in files[2].items() if key != "annotations"}
    assert_boxes(load(files, contents), [[], [], []])
    assert list(CocoFiles(*files[:2]).read().names.values()) == CLASSES


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        ("annotations", {"category_id": 1}, r"annotations\[1\] has category_id=1"),
        ("images", {"id": 0}, r"images\[1\] has id=0, expected a unique"),
        ("images", {"file_name": None}, "image 1 needs a file name"),
        ("categories", {"id": 90}, r"categories\[1\] has id=90, expected a unique"),
        ("categories", {"name": "cat"}, "name='cat', expected a unique"),
    ],
)
def test_what_would_give_other_boxes_without_notice_is_named(files, kind, fields, message):
    with pytest.raises(DataError, match=rf"boxes\.json: .*{message}"):
        load(files, changed(files[2], kind, 1, **fields))


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b"\0", b'{"images": [', b"\xff", b"[" * 10**5])
def test_a_file_of_something_else_is_named(files, text):
    with pytest.raises(DataError, match=r"boxes\.json"):
        load(files, text)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_file_may_have_another_unicode_encoding(files, encoding):
    assert_boxes(load(files, json.dumps(files[2]).encode(encoding)), EXPECTED)
