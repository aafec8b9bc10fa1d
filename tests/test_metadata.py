"""The names of the classes are known wherever a config is used, those of own data too."""

import pytest
from detectron2.config import LazyCall as L

from samdetr import model_zoo
from samdetr.data import CocoFiles, load_own_dataset
from samdetr.data.datasets import metadata_of


@pytest.fixture
def cfg():
    return model_zoo.get_config("mini/sam_detr_smca")


def test_names_of_own_data_are_in_its_config_and_nothing_is_read(cfg):
    cfg.dataloader.test.dataset = L(load_own_dataset)(
        source=L(CocoFiles)(json_file="nowhere.json", image_root="nowhere"),
        names="own_val",
        classes=["cat", "dog"],
    )
    assert metadata_of(cfg).thing_classes == ["cat", "dog"]


@pytest.mark.parametrize("names", ["mini_val", ["mini_val"]])
def test_names_of_a_registered_set_are_those_of_the_catalog(cfg, names):
    cfg.dataloader.test.dataset.names = names
    assert metadata_of(cfg).thing_classes == [str(x) for x in range(10)]


def test_a_config_without_a_test_set_has_none(cfg):
    cfg.dataloader.test.dataset = {}
    assert metadata_of(cfg).get("thing_classes") is None
