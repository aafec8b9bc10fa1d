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
    usable = [(entry, seen(corners(*entry["bbox"]))) for entry in entries]
    expected = [[] for _ in range(3)]
    for entry, box in usable:
        if box and not entry.get("iscrowd") and not entry.get("ignore"):
            expected[entry["image_id"]].append((box, IDS.index(entry["category_id"])))
    contents = {**files[2], "annotations": entries}
    with dropped() as counts:
        if entries and not any(box for _, box in usable):
            with pytest.raises(DataError, match=f"{len(entries)} of {len(entries)} boxes"):
                load(files, contents)
            return
        assert_boxes(load(files, contents), expected)
    unusable = sum(box is None for _, box in usable)
    assert counts == ([unusable] if unusable else [])


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
    contents = {**files[2], "annotations": entries}
    assert_boxes(load(files, contents), [[], [], []])
    with pytest.raises(DataError, match="no image of .* has an object"):
        load(files, contents, filter_empty=True)


def test_a_test_set_has_no_annotations(files):
    contents = {key: value for key, value in files[2].items() if key != "annotations"}
    assert_boxes(load(files, contents), [[], [], []])
    assert CocoFiles(*files[:2]).class_names() == CLASSES


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        ("annotations", {"image_id": 9}, r"annotations\[1\] has image_id=9"),
        ("annotations", {"image_id": None}, r"annotations\[1\] has image_id=None"),
        ("annotations", {"category_id": 1}, r"annotations\[1\] has category_id=1"),
        ("images", {"id": 0}, r"images\[1\] has id=0, which is not unique"),
        ("images", {"file_name": None}, "image 1 needs a file name"),
        ("images", {"width": None}, "image 1 needs a file name, width and height"),
        ("categories", {"id": 90}, r"categories\[1\] has id=90, which is not unique"),
        ("categories", {"name": "cat"}, "name='cat', which is not unique"),
        ("categories", {"name": None}, "name=None, which is missing"),
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
