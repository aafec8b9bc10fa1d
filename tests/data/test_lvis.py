"""Data sets in LVIS's format: its metric, and what is refused before an image is read."""

import json

import pytest
from detectron2.config import LazyConfig, instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_lvis_instances
from detectron2.data.datasets.lvis import get_lvis_instances_meta

from coco_files import write_coco
from samdetr.data import DataError, load_detection_dataset
from samdetr.errors import ConfigError
from samdetr.evaluation import LVISEvaluator
from test_evaluation import BOXES, CONFIGS, detections, evaluate


@pytest.fixture
def lvis_set(tmp_path):
    """A set in LVIS's format under a name of version 1, whose categories Detectron2 knows."""
    pytest.importorskip("lvis", reason="pip install --no-deps lvis")
    json_file, image_root = write_coco(tmp_path, BOXES)
    contents = json.loads((tmp_path / "boxes.json").read_text())
    for image in contents["images"]:
        image.update(coco_url=f"http://x/images/{image['file_name']}", neg_category_ids=[3])
        image["not_exhaustive_category_ids"] = []
    for x, y in zip(contents["annotations"], (1, 2, 1)):
        left, top, width, height = x["bbox"]
        corners = [left, top, left + width, top, left + width, top + height, left, top + height]
        x.update(category_id=y, segmentation=[corners], area=width * height)
    names = get_lvis_instances_meta("lvis_v1")["thing_classes"]
    contents["categories"] = [
        {"id": i, "name": names[i - 1], "frequency": "rcf"[i % 3], "image_count": 1}
        for i in (1, 2, 3)
    ]
    (tmp_path / "boxes.json").write_text(json.dumps(contents))
    register_lvis_instances("toy_v1", get_lvis_instances_meta("lvis_v1"), json_file, f"{tmp_path}/")
    yield "toy_v1"
    DatasetCatalog.remove("toy_v1")
    MetadataCatalog.remove("toy_v1")


def test_lvis_is_measured_by_its_own_metric(tmp_path, lvis_set):
    cfg = LazyConfig.load(str(CONFIGS / "lvis.py"))
    cfg.train, cfg.model = {"output_dir": str(tmp_path), "seed": 0}, {"num_classes": 1203}
    for part in ("train", "test"):
        cfg.dataloader[part].dataset.names = lvis_set
        cfg.dataloader[part].num_workers = 0
    cfg.dataloader.train.total_batch_size = 2
    records = instantiate(cfg.dataloader.test.dataset)
    assert len(next(iter(instantiate(cfg.dataloader.train)))) == 2
    evaluator = instantiate(cfg.dataloader.evaluator)
    found = [detections(x, 1203) for x in records]

    assert evaluate(evaluator, records, found)["bbox"]["AP"] == pytest.approx(100)
    found[1] = found[1][:0]  # one of the two objects of category 1
    figures = evaluate(evaluator, records, found)["bbox"]

    assert figures["APc"] == pytest.approx(100 * 51 / 101)  # category 1, up to a recall of a half
    assert figures["APf"] == pytest.approx(100)  # category 2
    results = json.loads((tmp_path / "inference/lvis_instances_results.json").read_text())
    assert {x["category_id"] for x in results} == {1, 2}


def change(kind, field, value):
    """Changes a field of the second entry of a kind, or takes it away."""

    def changed(contents):
        entry = contents[kind][1]
        entry.pop(field)
        if value is not None:
            entry[field] = value

    return changed


def edit(tmp_path, changed):
    contents = json.loads((tmp_path / "boxes.json").read_text())
    changed(contents)
    (tmp_path / "boxes.json").write_text(json.dumps(contents))


@pytest.mark.parametrize(
    ("kind", "field", "values"),
    [
        ("categories", "frequency", [None, [1], "x", 1]),
        ("images", "neg_category_ids", [None, 5, ["a"], "12"]),
        ("images", "not_exhaustive_category_ids", [None, 5, [1.5]]),
        ("annotations", "area", [None, "x", -1, [1]]),
        ("annotations", "bbox", [None, [1, 2, 3], [1, 2, 3, float("nan")]]),
        ("annotations", "image_id", [None, 77, [1]]),
        ("annotations", "category_id", [None, 4, "1"]),
    ],
)
def test_what_the_metric_lacks_is_refused_as_the_evaluator_is_made(
    tmp_path, lvis_set, kind, field, values
):
    for value in values:
        original = (tmp_path / "boxes.json").read_text()
        edit(tmp_path, change(kind, field, value))
        with pytest.raises(
            DataError, match=rf"'{lvis_set}' cannot be ev.*boxes.json: {kind}\[1\] has {field}="
        ):
            LVISEvaluator(lvis_set)
        (tmp_path / "boxes.json").write_text(original)
    assert LVISEvaluator(lvis_set)._do_evaluation


@pytest.mark.parametrize("read", [load_detection_dataset, LVISEvaluator])
@pytest.mark.parametrize(
    ("kind", "field", "value", "message"),
    [
        ("categories", "name", "zebra", "name='zebra', not 'air_conditioner', which is category 2"),
        ("categories", "id", 3, "id=3|name='air_conditioner', not"),
        ("categories", "id", 1204, "id=1204, not the id of one of the 1203 categories"),
        ("categories", "name", "\ud800", "name='.ud800', not text"),
        ("images", "id", 0, "some of the images have the same id"),
        ("images", "coco_url", None, "coco_url=None, not text"),
    ],
)
def test_entries_that_are_not_of_lvis_are_refused(
    tmp_path, lvis_set, read, kind, field, value, message
):
    edit(tmp_path, change(kind, field, value))
    with pytest.raises(DataError, match=f"'{lvis_set}' cannot be .*boxes.json: .*{message}"):
        read(lvis_set)


def test_a_first_synonym_is_a_name_too_as_detectron2_takes_it(tmp_path, lvis_set):
    def renamed(contents):
        contents["categories"][1].update(name="x", synonyms=["air_conditioner", "y"])

    edit(tmp_path, renamed)
    assert len(load_detection_dataset(lvis_set)) == 3


@pytest.mark.parametrize("number", [0, -1, 7, None])
def test_ids_of_annotations_do_not_count(tmp_path, lvis_set, number):
    def renumbered(contents):
        for entry in contents["annotations"]:
            entry["id"] = number

    edit(tmp_path, renumbered)
    records = load_detection_dataset(lvis_set)
    figures = evaluate(LVISEvaluator(lvis_set), records, [detections(x, 1203) for x in records])
    assert figures["bbox"]["AP"] == pytest.approx(100)


def test_a_test_set_needs_nothing_of_the_metric(tmp_path, lvis_set):
    def bare(contents):
        del contents["annotations"]
        for entry in contents["images"]:
            del entry["neg_category_ids"], entry["not_exhaustive_category_ids"]

    edit(tmp_path, bare)
    records = load_detection_dataset(lvis_set)
    found = [detections(x, 1203, wrong=2) for x in records]
    assert evaluate(LVISEvaluator(lvis_set, str(tmp_path / "out")), records, found) == {}
    results = json.loads((tmp_path / "out/lvis_instances_results.json").read_text())
    assert len(results) == 6


@pytest.mark.parametrize("part", ["/../secret", "/images-secret"])
def test_a_link_cannot_lead_out_of_the_folder_of_the_images(tmp_path, lvis_set, part):
    metadata = MetadataCatalog.get(lvis_set)
    root = f"{tmp_path}/images"
    for name in ("secret", "images-secret"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.png").write_bytes((tmp_path / "images/0.png").read_bytes())
    DatasetCatalog.remove(lvis_set)
    MetadataCatalog.remove(lvis_set)
    register_lvis_instances(lvis_set, {}, metadata.json_file, root)

    def moved(contents):
        contents["images"][0]["coco_url"] = f"http://x/{part.removeprefix('/images')}/0.png"

    edit(tmp_path, moved)
    with pytest.raises(DataError, match=f"image 0 has file_name=.*, not a file below {root}/"):
        load_detection_dataset(lvis_set)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": ["segm"]}, r"tasks is \['segm'\], not \['bbox'\]"),
        ({"max_dets_per_image": [1, 2, 3]}, r"max_dets_per_image is \[1, 2, 3\], not an integer"),
        ({"max_dets_per_image": "300"}, "max_dets_per_image is '300', not an integer"),
    ],
)
def test_options_that_cannot_be_are_refused_at_once(lvis_set, options, message):
    with pytest.raises(ConfigError, match=message):
        LVISEvaluator(lvis_set, **options)
