"""Annotations of every kind in Pascal VOC's folders: they load as they should, or are refused."""

import os
import re
import tracemalloc
from xml.etree import ElementTree

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_pascal_voc
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bad_annotations import assert_boxes, assert_trainable, numbers, outcome, seen, sides
from coco_files import SIZE
from samdetr.data import DataError, VocFolder, load_detection_dataset, load_own_dataset, own

CLASSES = ["cat", "dog"]
IMAGES = ["one", "two", "three"]
BOX = (6, 6, 15, 15)
SIDES = ("xmin", "ymin", "xmax", "ymax")
TEXTS = [
    "",
    " ",
    "40.0",
    "4_0",
    "0x28",
    "NaN",
    "inf",
    "1e400",
    "-1",
    "0",
    "9" * 5000,
    "\u0664\u0660",
    "a",
]
BOMB = (
    '<?xml version="1.0"?><!DOCTYPE annotation [<!ENTITY a0 "cat">'
    + "".join(f'<!ENTITY a{i + 1} "{f"&a{i};" * 10}">' for i in range(30))
    + "]>"
)
OUTSIDE = '<!DOCTYPE annotation [<!ENTITY a0 SYSTEM "file://{secret}">]>'


def annotation(objects=(), size=SIZE):
    root = ElementTree.Element("annotation")
    entry = ElementTree.SubElement(root, "size")
    for key, value in zip(("width", "height"), size):
        ElementTree.SubElement(entry, key).text = str(value)
    for name, box in objects:
        entry = ElementTree.SubElement(root, "object")
        ElementTree.SubElement(entry, "name").text = name
        bounds = ElementTree.SubElement(entry, "bndbox")
        for key, value in zip(SIDES, box):
            ElementTree.SubElement(bounds, key).text = str(value)
    return ElementTree.tostring(root, encoding="unicode")


@pytest.fixture(scope="module")
def module_folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("voc"))


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "voc")


def make_folder(path):
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (path / name).mkdir(parents=True)
    for image in IMAGES:
        Image.new("RGB", SIZE).save(path / f"JPEGImages/{image}.jpg")
    reset(path)
    return path


def reset(path):
    """Two objects, of both classes, in the first image and none in the others."""
    (path / "ImageSets/Main/train.txt").write_text("\n".join(IMAGES))
    for image in IMAGES:
        objects = [(name, BOX) for name in CLASSES] if image == "one" else []
        (path / f"Annotations/{image}.xml").write_text(annotation(objects))


def by_register(folder):
    register_pascal_voc("bad_voc", str(folder), "train", 2007, CLASSES)
    try:
        return load_detection_dataset("bad_voc", num_classes=2)
    finally:
        DatasetCatalog.remove("bad_voc")
        MetadataCatalog.remove("bad_voc")


def by_options(folder):
    source = VocFolder(str(folder), "train")
    source.check(CLASSES)
    try:
        return load_own_dataset("own_voc", source, CLASSES, num_classes=2)
    finally:
        del own._registered["own_voc"]
        DatasetCatalog.remove("own_voc")
        MetadataCatalog.remove("own_voc")


def both_ways(folder):
    """The outcome for a folder, the same however it is named."""
    first = outcome(lambda: by_options(folder))
    second = outcome(lambda: by_register(folder))
    assert first[0] == second[0]
    assert first[1] == second[1] or first[0] is None
    if first[0] is None:
        names = re.compile(r"\.(xml|jpg|txt)")
        assert names.search(first[1]) and names.search(second[1]), (first, second)
    return first


def zero_based(*box):
    left, top, right, bottom = (float(str(x)) for x in box)  # as a file is read: 10**400 is inf
    return left - 1, top - 1, right, bottom


objects = st.tuples(
    st.sampled_from(CLASSES),
    st.tuples(numbers, numbers, sides, sides),
)


@given(lists=st.tuples(*[st.lists(objects, max_size=3)] * 3))
def test_boxes_are_as_the_oracle_has_them_or_are_counted(module_folder, lists):
    reset(module_folder)
    for image, entries in zip(IMAGES, lists):
        (module_folder / f"Annotations/{image}.xml").write_text(annotation(entries))

    records, number = both_ways(module_folder)

    # Pixels are counted from 1, and the last one is part of the box.
    boxes = [[(seen(zero_based(*box)), CLASSES.index(name)) for name, box in one] for one in lists]
    flat = [box for one in boxes for box, _ in one]
    if flat and not any(flat):
        assert records is None and "No usable box" in number
        return
    assert number == sum(box is None for box in flat)
    assert_boxes(records, [[(box, label) for box, label in one if box] for one in boxes])


@given(
    path=st.sampled_from(
        ["size/width", "object/name", "object/bndbox/xmax", "object", "size", "."]
    ),
    change=st.one_of(st.none(), st.sampled_from(TEXTS), st.text(max_size=8), sides.map(str)),
)
def test_one_wrong_value_anywhere_is_harmless_or_named(module_folder, path, change):
    reset(module_folder)
    file = module_folder / "Annotations/one.xml"
    root = ElementTree.fromstring(file.read_text())
    for entry in root.findall(path):
        if change is None:
            entry.clear()
        else:
            entry.text = change
    try:
        file.write_text(ElementTree.tostring(root, encoding="unicode"))
    except UnicodeEncodeError:
        file.write_bytes(b"\xff")
    records, result = both_ways(module_folder)
    if records is None:
        assert "one.xml" in result or "one.jpg" in result
    else:
        assert_trainable(records, len(CLASSES))
        assert sum(len(x["annotations"]) for x in records) + result in (0, 2)


@given(data=st.data())
def test_a_damaged_file_is_refused_or_has_what_it_still_says(module_folder, data):
    reset(module_folder)
    file = module_folder / data.draw(
        st.sampled_from(["Annotations/one.xml", "ImageSets/Main/train.txt"])
    )
    text = file.read_bytes()
    start, length = data.draw(st.integers(0, len(text))), data.draw(st.integers(0, 20))
    file.write_bytes(text[:start] + data.draw(st.binary(max_size=20)) + text[start + length :])
    records, _ = both_ways(module_folder)
    assert records is None or len(assert_loaded(records)) in (2, 3)


def assert_loaded(records):
    assert_trainable(records, len(CLASSES))
    return records


@pytest.mark.parametrize("way", [by_options, by_register])
@pytest.mark.parametrize(
    "head", [BOMB, OUTSIDE, '<!DOCTYPE annotation SYSTEM "http://localhost/x.dtd">', "<!DOCTYPE a>"]
)
def test_entities_are_never_expanded_nor_fetched(folder, way, head):
    secret = folder / "secret"
    secret.write_text("cat")
    file = folder / "Annotations/one.xml"
    body = file.read_text().replace(">cat<", ">&a0;<" if head == OUTSIDE else ">&a30;<")
    file.write_text(head.replace("{secret}", str(secret)) + body)
    with pytest.raises(DataError, match="one.xml declares a DOCTYPE or an ENTITY"):
        way(folder)


@pytest.mark.parametrize("way", [by_options, by_register])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "one.xml is not an XML file"),
        (b"\x00" * 100, "one.xml is not an XML file"),
        (annotation().encode("utf-16"), "one.xml is not an XML file"),
        (b'<?xml version="1.0" encoding="nonsense"?>' + annotation().encode(), "not an XML file"),
        (b'<?xml version="1.0" encoding="shift_jis"?>' + annotation().encode(), "not an XML file"),
        (b"<annotation>&nbsp;</annotation>", "one.xml is not an XML file: undefined entity"),
        (b"<a>" * 100_000, "one.xml is not an XML file"),
        (b"<a>" * 100_000 + b"</a>" * 100_000, "one.xml: the annotation has size/width=None"),
        (b" " * 2**24 + b" ", "one.xml has more than 16777216 characters"),
    ],
)
def test_a_file_that_is_no_annotation_is_refused(folder, way, content, message):
    (folder / "Annotations/one.xml").write_bytes(content)
    with pytest.raises(DataError, match=message):
        way(folder)


@pytest.mark.parametrize("way", [by_options, by_register])
@pytest.mark.parametrize(
    "name",
    ["../../secret", "sub/../../../secret", "{folder}/secret", "http://localhost/a", "sub", "no#e"],
)
def test_a_list_cannot_make_other_files_be_opened(folder, way, name):
    for place in (folder, folder / ".."):
        (place / "secret.xml").write_text(annotation())
        Image.new("RGB", SIZE).save(place / "secret.jpg")
    (folder / "JPEGImages/sub").mkdir()
    file = folder / "ImageSets/Main/train.txt"
    file.write_text(f"one\n{name.format(folder=folder)}\n")
    with pytest.raises(DataError, match=r"train.txt(: line 2 has name=.* not the name| lists)"):
        way(folder)


def test_names_below_the_folder_and_links_are_the_users_own(folder):
    for name, suffix in (("Annotations", "xml"), ("JPEGImages", "jpg")):
        (folder / name / "sub").mkdir()
        os.symlink(folder / name / f"one.{suffix}", folder / name / f"sub/linked.{suffix}")
    (folder / "ImageSets/Main/train.txt").write_text("two\nsub/linked\n")
    records, _ = both_ways(folder)
    assert [len(x["annotations"]) for x in records] == [0, 2]
    assert [x["image_id"] for x in records] == ["two", "sub/linked"]


def test_an_image_that_is_listed_twice_is_refused(folder):
    (folder / "ImageSets/Main/train.txt").write_text("one\ntwo\none\n")
    for way in (by_options, by_register):
        with pytest.raises(DataError, match="train.txt: line 3 has name='one', not one that no"):
            way(folder)


@pytest.mark.parametrize("way", [by_options, by_register])
def test_one_long_line_does_not_make_the_others_as_long(folder, way):
    longest = "b" * 251  # with the suffix as long as a name of a file can be
    for name, suffix in (("Annotations", "xml"), ("JPEGImages", "jpg")):
        os.symlink(folder / name / f"one.{suffix}", folder / name / f"{longest}.{suffix}")
    file = folder / "ImageSets/Main/train.txt"
    file.write_text(f"two\n\n{longest}\n\n")
    assert [x["image_id"] for x in way(folder)] == ["two", longest]

    numbers = "\n".join(map(str, range(4000)))
    file.write_text(f"two\none\n{'b' * 20_000}\n{numbers}\n")  # 320 MB as an array of text
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="train.txt: line 3 has name='bbb.* of up to 255 char"):
            way(folder)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20 * 2**20
