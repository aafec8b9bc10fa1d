"""Pascal VOC folders as annotation tools write them."""

from xml.etree import ElementTree

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_pascal_voc
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bad_annotations import assert_boxes, dropped, numbers, seen, sides
from coco_files import SIZE
from samdetr.data import DataError, VocFolder, load_detection_dataset

CLASSES = ["cat", "dog"]
IMAGES = ["one", "two", "three"]
BOX = (6, 6, 15, 15)
SIDES = ("xmin", "ymin", "xmax", "ymax")


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
    """Two objects, of both classes, in the first image and none in the others."""
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (path / name).mkdir(parents=True)
    for image in IMAGES:
        Image.new("RGB", SIZE).save(path / f"JPEGImages/{image}.jpg")
        objects = [(name, BOX) for name in CLASSES] if image == "one" else []
        (path / f"Annotations/{image}.xml").write_text(annotation(objects))
    (path / "ImageSets/Main/train.txt").write_text("\n".join(IMAGES))
    return path


def load(folder):
    register_pascal_voc("bad_voc", str(folder), "train", 2007, CLASSES)
    try:
        return load_detection_dataset("bad_voc", num_classes=2)
    finally:
        DatasetCatalog.remove("bad_voc")
        MetadataCatalog.remove("bad_voc")


def zero_based(*box):
    left, top, right, bottom = (float(str(x)) for x in box)  # as a file is read: 10**400 is inf
    return left - 1, top - 1, right, bottom


objects = st.tuples(st.sampled_from(CLASSES), st.tuples(numbers, numbers, sides, sides))


@given(lists=st.tuples(*[st.lists(objects, max_size=3)] * 3))
def test_boxes_are_as_the_oracle_has_them_or_are_counted(module_folder, lists):
    for image, entries in zip(IMAGES, lists):
        (module_folder / f"Annotations/{image}.xml").write_text(annotation(entries))
    # Pixels are counted from 1, and the last one is part of the box.
    boxes = [[(seen(zero_based(*box)), CLASSES.index(name)) for name, box in one] for one in lists]
    flat = [box for one in boxes for box, _ in one]
    with dropped() as counts:
        if flat and not any(flat):
            with pytest.raises(DataError, match="boxes of .* are not trained on"):
                load(module_folder)
            return
        records = load(module_folder)
    assert sum(counts) == sum(box is None for box in flat)
    assert_boxes(records, [[(box, label) for box, label in one if box] for one in boxes])


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("Annotations/one.xml", "", "one.xml is not an annotation"),
        ("Annotations/one.xml", "<annotation>&nbsp;</annotation>", "one.xml is not an annotation"),
        ("Annotations/one.xml", "<annotation/>", "one.xml is not an annotation"),
        (
            "Annotations/one.xml",
            annotation([("cow", BOX)]),
            "object 0 of .*one.jpg has the class 'cow'",
        ),
        ("ImageSets/Main/train.txt", "one\nsix", "six.xml"),
        ("ImageSets/Main/train.txt", "one\ntwo\none", "image_id='one', which another has"),
        ("ImageSets/Main/train.txt", "\n", "has no images"),
    ],
)
def test_what_would_give_other_boxes_without_notice_is_named(folder, file, text, message):
    (folder / file).write_text(text)
    with pytest.raises(DataError, match=message):
        load(folder)


def test_lists_may_have_one_image_empty_lines_flags_and_subfolders(folder):
    for name, suffix in (("Annotations", "xml"), ("JPEGImages", "jpg")):
        (folder / name / "sub").mkdir()
        (folder / name / f"sub/one.{suffix}").write_bytes(
            (folder / name / f"one.{suffix}").read_bytes()
        )
    (folder / "ImageSets/Main/train.txt").write_text("\nsub/one  1\n\n")
    (record,) = load(folder)
    assert record["image_id"] == "sub/one" and len(record["annotations"]) == 2


def test_a_folder_of_another_layout_is_named(folder):
    with pytest.raises(FileNotFoundError, match=r"ImageSets/Main/val\.txt"):
        VocFolder(str(folder), "val").read()
