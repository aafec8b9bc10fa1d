"""Pascal VOC's metric, of folders as VOC's and as other tools write them."""

import re

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_pascal_voc
from detectron2.evaluation import PascalVOCDetectionEvaluator as Detectron2VOCEvaluator
from detectron2.evaluation import pascal_voc_evaluation
from PIL import Image

from coco_files import SIZE
from samdetr.data import load_detection_dataset
from samdetr.evaluation import PascalVOCDetectionEvaluator
from test_evaluation import detections, evaluate

IMAGES = [str(index) for index in range(12)]
FIELDS = "<pose>Left</pose><truncated>0</truncated><difficult>{}</difficult>"


def entry(box, name, fields):
    sides = "".join(f"<{x}>{y}</{x}>" for x, y in zip(("xmin", "ymin", "xmax", "ymax"), box))
    return f"<object><name>{name}</name>{fields}<bndbox>{sides}</bndbox></object>"


@pytest.fixture
def folder(tmp_path):
    """Images of one object of each class each, every fourth difficult."""
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "ImageSets/Main/test.txt").write_text("\n".join(IMAGES))
    random = np.random.default_rng(0)
    for index, image in enumerate(IMAGES):
        Image.new("RGB", SIZE).save(tmp_path / f"JPEGImages/{image}.jpg")
        left, top = random.integers(1, 20, 2), random.integers(1, 15, 2)
        right, bottom = left + random.integers(5, 20, 2), top + random.integers(5, 15, 2)
        objects = [
            entry(box, name, FIELDS.format(int(index % 4 == 0)))
            for name, *box in zip(("cat", "dog"), left, top, right, bottom)
        ]
        size = "<size><width>40</width><height>30</height></size>"
        (tmp_path / f"Annotations/{image}.xml").write_text(
            f"<annotation>{size}{''.join(objects)}</annotation>"
        )
    yield tmp_path
    DatasetCatalog.remove("voc_evaluated")
    MetadataCatalog.remove("voc_evaluated")


def register(folder, classes=("cat", "dog")):
    register_pascal_voc("voc_evaluated", str(folder), "test", 2007, classes)
    pascal_voc_evaluation.parse_rec.cache_clear()
    return "voc_evaluated"


def edit(folder, pattern, replacement, images=IMAGES):
    for image in images:
        file = folder / f"Annotations/{image}.xml"
        text = file.read_text()
        assert re.search(pattern, text)
        file.write_text(re.sub(pattern, replacement, text))


def figures(kind, name, noise=2.0):
    torch.manual_seed(0)
    records = load_detection_dataset(name)
    found = [detections(x, 2, noise=noise, wrong=2) for x in records]
    return evaluate(kind(name), records, found)["bbox"]


def test_figures_of_vocs_own_files_are_those_of_detectron2(folder):
    name = register(folder)
    expected = figures(Detectron2VOCEvaluator, name)
    assert figures(PascalVOCDetectionEvaluator, name) == expected
    assert 5 < expected["AP"] < 95


def test_what_other_tools_leave_out_or_write_otherwise_does_not_count(folder):
    # All of it is left out but for what is difficult.
    edit(folder, "<pose>.*?</pose><truncated>.*?</truncated>", "")
    edit(folder, "<difficult>0</difficult>", "", [x for x in IMAGES if int(x) % 4])
    edit(folder, r"<xmin>(\d+)</xmin>", r"<xmin> \1.0 </xmin>")
    (folder / "ImageSets/Main/test.txt").write_text("\n\n".join(IMAGES) + "\n\n")
    odd = figures(PascalVOCDetectionEvaluator, register(folder))
    edit(folder, "<bndbox>", "<pose>x</pose><truncated>0</truncated><bndbox>")
    edit(
        folder,
        "</name><pose>",
        "</name><difficult>0</difficult><pose>",
        [x for x in IMAGES if int(x) % 4],
    )
    edit(folder, r"<xmin> (\d+).0 </xmin>", r"<xmin>\1</xmin>")
    (folder / "ImageSets/Main/test.txt").write_text("\n".join(IMAGES))
    assert odd == figures(Detectron2VOCEvaluator, "voc_evaluated")


def test_fractions_are_rounded_to_the_pixels_that_the_metric_counts(folder):
    expected = figures(Detectron2VOCEvaluator, register(folder))
    edit(folder, r"<xmin>(\d+)</xmin>", r"<xmin>\1.3</xmin>")
    records = load_detection_dataset("voc_evaluated")
    found = figures(PascalVOCDetectionEvaluator, "voc_evaluated")
    assert any(x["bbox"][0] % 1 for record in records for x in record["annotations"])
    assert found["AP"] == pytest.approx(expected["AP"], abs=5)


@pytest.mark.parametrize("value", ["nan", "inf", "left"])
def test_boxes_that_are_not_finite_are_not_evaluated(folder, caplog, value):
    odd = entry((value, 1, 9, 9), "cat", "")
    edit(folder, "</annotation>", f"{odd}</annotation>", ["1"])
    name = register(folder)
    records = load_detection_dataset(name)
    found = [detections(x, 2) for x in records]
    assert evaluate(PascalVOCDetectionEvaluator(name), records, found)["bbox"]["AP"] > 99.99
    assert "1 of 3 boxes are not four finite numbers" in caplog.text
