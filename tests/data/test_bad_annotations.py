"""Annotations of every kind in COCO's format: they load as they should, or are refused by name."""

import copy
import json
import os
import re
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bad_annotations import (
    ODD_OBJECTS,
    assert_boxes,
    assert_trainable,
    corners,
    numbers,
    objects,
    outcome,
    seen,
    sides,
)
from coco_files import SIZE, Registry, write_coco
from samdetr.data import CocoFiles, DataError, load_detection_dataset, load_own_dataset, own
from samdetr.data.coco import read_coco

GOOD = [5, 5, 10, 10]
IDS = [-3, 17, 90]  # of categories
CLASSES = ["cat", "dog", "newt"]
PLACE = re.compile(r"boxes\.json|\.png|image \d")  # the file, or an image that it names
ENTRY_OF = re.compile(
    r"(categories|images|annotations)\[\d+\]|categories are|has no list|ids of images"
)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A file of three images and two boxes, and the folder of the images."""
    folder = tmp_path_factory.mktemp("coco")
    boxes = [[{"bbox": GOOD, "category_id": 90}], [{"bbox": GOOD, "category_id": -3}], []]
    json_file, image_root = write_coco(folder, boxes)
    contents = json.loads(Path(json_file).read_text())
    contents["categories"] = [{"id": i, "name": name} for i, name in zip(IDS, CLASSES)][::-1]
    return json_file, image_root, contents


def by_register(json_file, image_root, **options):
    with Registry() as registry:
        return load_detection_dataset(registry.add(json_file, image_root), **options)


def by_options(json_file, image_root):
    source = CocoFiles(json_file, image_root)
    classes = source.check()
    try:
        return load_own_dataset("own_bad", source, classes, num_classes=len(classes))
    finally:
        del own._registered["own_bad"]
        DatasetCatalog.remove("own_bad")
        MetadataCatalog.remove("own_bad")


def both_ways(files, contents):
    """The outcome for a file with these contents, the same however it is named."""
    json_file, image_root, _ = files
    text = contents if isinstance(contents, bytes) else json.dumps(contents).encode()
    Path(json_file).write_bytes(text)
    first = outcome(lambda: by_options(json_file, image_root))
    second = outcome(lambda: by_register(json_file, image_root))
    assert first[0] == second[0]
    assert first[1] == second[1] or first[0] is None
    if first[0] is None:
        assert all(PLACE.search(message) for _, message in (first, second)), (first, second)
    return first


boxes = st.tuples(numbers, numbers, sides, sides).map(list)
annotations = st.fixed_dictionaries(
    {"image_id": st.integers(0, 2), "category_id": st.sampled_from(IDS), "bbox": boxes},
    optional={
        "iscrowd": st.sampled_from([0, 0, 1, True, 0.0]),
        "id": st.integers(-2, 2),
        "segmentation": objects,
    },
)


@given(entries=st.lists(annotations, max_size=8))
def test_boxes_are_as_the_oracle_has_them_or_are_counted(files, entries):
    records, number = both_ways(files, {**files[2], "annotations": entries})

    usable = [(entry, seen(corners(*entry["bbox"]))) for entry in entries]
    expected = [[] for _ in range(3)]
    for entry, box in usable:
        if box and not entry.get("iscrowd"):
            expected[entry["image_id"]].append((box, IDS.index(entry["category_id"])))
    if entries and not any(box for _, box in usable):
        assert records is None and "No usable box" in number
    else:
        assert number == sum(box is None for _, box in usable)
        assert_boxes(records, expected)


@st.composite
def mutations(draw):
    """Where something is put into a file, and what; a function is for taking it away."""
    kind = draw(st.sampled_from(["categories", "images", "annotations"]))
    index = draw(st.sampled_from([None, 0, 1, 2]))
    fields = {"categories": ["id", "name"], "images": ["id", "file_name", "width", "height"]}
    fields["annotations"] = ["image_id", "category_id", "bbox", "iscrowd", "area", "id", "ignore"]
    field = draw(st.sampled_from([None, *fields[kind]])) if index is not None else None
    others = st.sampled_from([dict.pop, IDS[1], 1, 1.0, "1", "0.png", [1, 2, 3, 4.5]])
    return kind, index, field, draw(st.one_of(objects, others))


def mutated(contents, kind, index, field, value):
    contents = copy.deepcopy(contents)
    place, key = contents, kind
    if index is not None:
        place, key = contents[kind], min(index, len(contents[kind]) - 1)
        if field is not None:
            place, key = place[key], field
    if value is not dict.pop:
        place[key] = value
    elif isinstance(place, list):
        del place[key]
    else:
        place.pop(key, None)
    return contents


@given(mutation=mutations())
def test_one_wrong_value_anywhere_is_harmless_or_named(files, mutation):
    contents = mutated(files[2], *mutation)
    records, result = both_ways(files, contents)
    if records is None:
        assert "No usable box" in result or "no images" in result or ENTRY_OF.search(result), result
        return
    assert_trainable(records, len(contents["categories"]))
    left = sum(len(record["annotations"]) for record in records)
    assert left + result == len(contents.get("annotations", []))


@pytest.mark.parametrize("value", [x for x in ODD_OBJECTS if not isinstance(x, (int, str))])
@pytest.mark.parametrize("field", ["image_id", "category_id", "bbox", "iscrowd", "area"])
def test_a_value_that_is_none_is_refused_with_its_place(files, field, value):
    contents = mutated(files[2], "annotations", 1, field, value)
    records, message = both_ways(files, contents)
    assert records is None
    assert f"annotations[1] has {field}=" in message


@pytest.mark.parametrize("value", [0, -1, 0.5, float("nan"), float("inf"), "40", True, None, 2**31])
@pytest.mark.parametrize("side", ["width", "height"])
def test_a_size_that_no_image_has_is_refused(files, side, value):
    records, message = both_ways(files, mutated(files[2], "images", 1, side, value))
    assert records is None
    assert f"images[1] has {side}={value!r}, not a whole number of pixels" in message


@pytest.mark.parametrize("name", ["\ud800", "cat\udfff"])
def test_a_name_that_cannot_be_drawn_or_printed_is_refused(files, name):
    records, message = both_ways(files, mutated(files[2], "categories", 1, "name", name))
    assert records is None
    assert f"categories[1] has name={name!r}, not text" in message


def test_ids_are_as_free_as_they_can_be(files):
    contents = copy.deepcopy(files[2])
    for entry in contents["annotations"]:
        entry["id"] = 0  # the same, and one that COCO's code takes for none
    for entry in contents["images"]:
        entry["id"] = f"image {entry['id']}"
    for entry in contents["annotations"]:
        entry["image_id"] = f"image {entry['image_id']}"
    records, number = both_ways(files, contents)
    assert number == 0
    assert_boxes(records, [[((5, 5, 15, 15), 2)], [((5, 5, 15, 15), 0)], []])


def test_a_name_of_a_file_may_come_twice_each_with_its_own_boxes(files):
    contents = copy.deepcopy(files[2])
    contents["images"][1]["file_name"] = contents["images"][0]["file_name"]
    records, _ = both_ways(files, contents)
    assert [len(record["annotations"]) for record in records] == [1, 1, 0]


@pytest.mark.parametrize("count", [0, 1000])
def test_so_many_boxes_are_all_there(files, count):
    entries = [{"image_id": 1, "category_id": 17, "bbox": GOOD} for _ in range(count)]
    records, number = both_ways(files, {**files[2], "annotations": entries})
    assert number == 0
    assert_boxes(records, [[], [((5, 5, 15, 15), 1)] * count, []])


def test_crowds_alone_leave_nothing_to_train_on(files):
    json_file, image_root, contents = files
    entries = [{**entry, "iscrowd": 1} for entry in contents["annotations"]]
    records, _ = both_ways(files, {**contents, "annotations": entries})
    assert_boxes(records, [[], [], []])
    with pytest.raises(DataError, match="no image of .* has an object"):
        by_register(json_file, image_root, filter_empty=True)


@st.composite
def damaged(draw, text):
    """The bytes of a file, cut off, changed in places or of another encoding."""
    kind = draw(st.sampled_from(["cut", "changed", "inserted", "encoded", "nested"]))
    start = draw(st.integers(0, len(text)))
    if kind == "cut":
        return text[:start]
    if kind == "encoded":
        encoding = draw(st.sampled_from(["utf-16", "utf-32", "utf-8-sig", "utf-7", "cp037"]))
        return text.decode().encode(encoding)
    if kind == "nested":
        depth = draw(st.sampled_from([1, 10, 900, 100_000]))
        opened, closed = draw(st.sampled_from([(b"[", b"]"), (b'{"a":', b"0}")]))
        value = opened * depth + closed * depth
        return draw(st.sampled_from([value, text[:-1] + b', "more": ' + value + b"}"]))
    length = draw(st.integers(0, 20)) if kind == "changed" else 0
    return text[:start] + draw(st.binary(max_size=20)) + text[start + length :]


@given(data=st.data())
def test_a_damaged_file_is_refused_or_has_what_it_still_says(files, data):
    content = data.draw(damaged(json.dumps(files[2]).encode()))
    records, _ = both_ways(files, content)
    assert records is None or len(assert_loaded(records)) <= 3


def assert_loaded(records):
    assert_trainable(records, len(IDS))
    return records


@pytest.mark.parametrize("value", [b"", b"[]", b"null", b"1e400", b'"text"', b"{}", b"\0", b"{]"])
def test_a_file_of_something_else_is_refused(files, value):
    records, message = both_ways(files, value)
    assert records is None and "boxes.json" in message


@pytest.fixture
def secret(tmp_path):
    """A set of one image, beside whose folder there is another image; returns both folders."""
    write_coco(tmp_path, [[GOOD]])
    (tmp_path / "images/below").mkdir()
    (tmp_path / "images2").mkdir()
    for name in ("secret.png", "images2/secret.png", "images/below/0.png"):
        Image.new("RGB", SIZE).save(tmp_path / name)
    return tmp_path


@pytest.mark.parametrize(
    "name",
    [
        "../secret.png",
        "below/../../secret.png",
        "../images2/secret.png",
        "below/../0.png",
        "{folder}/secret.png",
        "{folder}/images/0.png",
        "file://{folder}/secret.png",
        "http://localhost/0.png",
        "detectron2://0.png",
        "mini://val/000000.jpg",
        "",
        ".",
        "below",
        "0.png\0",
        "0.png/",
        "nowhere.png",
    ],
)
@pytest.mark.parametrize("way", [by_options, by_register])
def test_a_file_cannot_make_other_files_be_opened(secret, monkeypatch, way, name):
    json_file = secret / "boxes.json"
    contents = json.loads(json_file.read_text())
    contents["images"][0]["file_name"] = name.format(folder=secret)
    json_file.write_text(json.dumps(contents))
    for image_root in (secret / "images", secret / "images/below/.."):
        with pytest.raises(DataError, match="image.*0"):
            way(str(json_file), str(image_root))


@pytest.mark.parametrize("way", [by_options, by_register])
def test_links_and_folders_below_are_the_users_own(secret, way):
    os.symlink(secret / "secret.png", secret / "images/link.png")
    os.symlink(secret / "images2", secret / "images/folder")
    json_file = secret / "boxes.json"
    contents = json.loads(json_file.read_text())
    for name in ("link.png", "folder/secret.png", "below/0.png", "./0.png"):
        contents["images"][0]["file_name"] = name
        json_file.write_text(json.dumps(contents))
        (record,) = way(str(json_file), str(secret / "images"))
        assert record["file_name"] == f"{secret}/images/{name}"


def test_masks_and_keypoints_cannot_keep_boxes_out(files):
    contents = copy.deepcopy(files[2])
    for entry, odd in zip(contents["annotations"], ([[1, 2, 3, 4]], {"counts": "x", "size": 3})):
        entry.update(segmentation=odd, keypoints=["a", None])
    records, number = both_ways(files, contents)
    assert number == 0
    assert_boxes(records, [[((5, 5, 15, 15), 2)], [((5, 5, 15, 15), 0)], []])


def test_without_an_entry_for_annotations_there_are_none(files):
    contents = {key: value for key, value in files[2].items() if key != "annotations"}
    records, _ = both_ways(files, contents)
    assert_boxes(records, [[], [], []])
    assert "annotations" not in read_coco(files[0])
