"""The data configs: they load, survive YAML, and give batches of the data they name."""

from pathlib import Path

import numpy as np
import pytest
from detectron2.config import LazyConfig, instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_pascal_voc
from PIL import Image

from coco_files import SIZE, Registry, write_coco
from samdetr.data import mini

CONFIGS = Path(__file__).parents[2] / "configs" / "common"
NAMES = ["data", "voc", "mini_data"]


def load(name, num_classes=2, **datasets):
    """A data config beside a model of so many classes; `train` and `test` rename its data."""
    config = LazyConfig.load(str(CONFIGS / f"{name}.py"))
    config.train = {"output_dir": "output", "seed": 0}
    config.model = {"num_classes": num_classes}
    for part, names in datasets.items():
        config.dataloader[part].dataset.names = names
        config.dataloader[part].num_workers = 0
    return config


def round_trip(config, folder):
    LazyConfig.save(config, str(folder / "config.yaml"))
    return LazyConfig.load(str(folder / "config.yaml"))


@pytest.fixture
def registry():
    registry = Registry()
    yield registry
    registry.clear()


@pytest.fixture
def small_mini(tmp_path, monkeypatch):
    monkeypatch.setenv("SAMDETR_CACHE", str(tmp_path / "cache"))
    for split in mini.MINI_COUNTS:
        monkeypatch.setitem(mini.MINI_COUNTS, split, 20)


@pytest.mark.parametrize("name", NAMES)
def test_yaml_keeps_everything(tmp_path, name):
    config = load(name)
    loaded = round_trip(config, tmp_path)
    saved = (tmp_path / "config.yaml").read_text()
    assert "${model.num_classes}" in saved and "${..test.dataset.names}" in saved
    round_trip(loaded, tmp_path)
    assert (tmp_path / "config.yaml").read_text() == saved
    for part in ("train", "test"):
        mapper = instantiate(loaded.dataloader[part].mapper)
        assert mapper.image_format == "RGB" and mapper.is_train == (part == "train")
        assert len(mapper.augmentations.augs) == len(config.dataloader[part].mapper.augmentations)


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_model_of_other_classes_is_refused_before_it_runs(tmp_path, registry, part):
    name = registry.add(*write_coco(tmp_path, [[[5, 5, 10, 10]]]))
    config = round_trip(load("data", num_classes=80, **{part: name}), tmp_path)
    with pytest.raises(ValueError, match="has 2 categories.*num_classes=80.*model.num_classes=2"):
        instantiate(config.dataloader[part])


def test_mini_gives_batches_without_mirrored_digits(small_mini):
    config = load("mini_data", num_classes=10, train="mini_train", test="mini_val")
    evaluator = instantiate(config.dataloader.evaluator)
    batch = next(iter(instantiate(config.dataloader.train)))
    assert len(batch) == 16
    for x in batch:
        assert x["image"].shape == (3, 96, 96)
        assert 1 <= len(x["instances"]) <= 4
        # The picture is that of the file but for brightness and contrast: neither moved nor
        # mirrored, so it goes with it in step.
        original = np.asarray(Image.open(x["file_name"])).transpose(2, 0, 1)
        assert np.corrcoef(original.ravel(), x["image"].numpy().ravel())[0, 1] > 0.95
    evaluated = [x for images in instantiate(config.dataloader.test) for x in images]
    assert {x["image_id"] for x in evaluated} == set(evaluator._coco_api.imgs)
    for x in evaluated:
        original = np.asarray(Image.open(x["file_name"])).transpose(2, 0, 1)
        np.testing.assert_array_equal(x["image"], original)


def test_voc_loads(tmp_path):
    width, height = SIZE
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "ImageSets" / "Main" / "trainval.txt").write_text("000001\n000002\n")
    box = "<xmin>6</xmin><ymin>6</ymin><xmax>15</xmax><ymax>15</ymax>"
    for image in ("000001", "000002"):
        Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(
            tmp_path / "JPEGImages" / f"{image}.jpg"
        )
        (tmp_path / "Annotations" / f"{image}.xml").write_text(
            f"<a><size><width>{width}</width><height>{height}</height></size>"
            f"<object><name>dog</name><bndbox>{box}</bndbox></object></a>"
        )
    register_pascal_voc("test_voc", str(tmp_path), "trainval", 2007)
    try:
        config = load("voc", num_classes=20, train=["test_voc", "test_voc"], test="test_voc")
        assert instantiate(config.dataloader.evaluator)._is_2007
        config.dataloader.train.mapper.augmentations = []
        config.dataloader.train.total_batch_size = 2
        batch = next(iter(instantiate(config.dataloader.train)))
        classes = MetadataCatalog.get("test_voc").thing_classes
    finally:
        DatasetCatalog.remove("test_voc")
        MetadataCatalog.remove("test_voc")
    for x in batch:
        assert x["instances"].gt_boxes.tensor.tolist() == [[5, 5, 15, 15]]
        assert classes[x["instances"].gt_classes] == "dog"
