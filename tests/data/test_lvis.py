"""Data sets in LVIS's format: its metric, and what is refused before an image is read."""

import json
from pathlib import Path

import numpy as np
import pytest
from detectron2.config import LazyConfig, instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_lvis_instances
from detectron2.data.datasets.lvis import get_lvis_instances_meta
from detectron2.evaluation import LVISEvaluator as Detectron2LVISEvaluator

from coco_files import write_coco
from samdetr.data import DataError, load_detection_dataset
from samdetr.evaluation import LVISEvaluator
from test_evaluation import BOXES, detections, evaluate

CONFIGS = Path(__file__).parents[2] / "configs" / "common"


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


def edit(tmp_path, kind, **fields):
    """Changes fields of the second entry of a kind."""
    contents = json.loads((tmp_path / "boxes.json").read_text())
    contents[kind][1].update(fields)
    (tmp_path / "boxes.json").write_text(json.dumps(contents))


def test_figures_are_those_of_lvis_own_code(tmp_path, lvis_set, monkeypatch):
    records = load_detection_dataset(lvis_set)
    edit(tmp_path, "images", not_exhaustive_category_ids=[1])
    found = [detections(x, 3, noise=1.5, wrong=6) for x in records]
    ours = evaluate(LVISEvaluator(lvis_set), records, found)["bbox"]

    monkeypatch.setattr(np, "float", float, raising=False)  # which lvis 0.5.3 asks for
    theirs = evaluate(Detectron2LVISEvaluator(lvis_set), records, found)["bbox"]

    assert ours.keys() == theirs.keys()
    np.testing.assert_allclose([*ours.values()], [*theirs.values()], rtol=1e-9)
    assert 1 < ours["AP"] < 95


def test_no_detection_at_all_gives_no_figure(lvis_set):
    records = load_detection_dataset(lvis_set)
    found = [detections(x, 3)[:0] for x in records]
    assert np.isnan([*evaluate(LVISEvaluator(lvis_set), records, found)["bbox"].values()]).all()


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        ("categories", {"id": 1204}, r"category_id="),
        ("images", {"id": 0}, "id=0, expected a unique"),
        ("images", {"coco_url": None}, "image 1 needs a file name"),
    ],
)
def test_entries_that_are_not_of_lvis_are_refused(tmp_path, lvis_set, kind, fields, message):
    edit(tmp_path, kind, **fields)
    with pytest.raises(DataError, match=f"boxes.json: .*{message}"):
        load_detection_dataset(lvis_set)
