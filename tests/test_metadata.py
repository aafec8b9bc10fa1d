"""Names and ids of the classes are known wherever a config or a checkpoint is used."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyCall as L
from torch import nn

from command_line import run_script, train_net
from samdetr import Predictor, model_zoo
from samdetr.checkpoint import load_file
from samdetr.data import CocoFiles, load_own_dataset
from samdetr.export import exporter
from samdetr.metadata import ClassMetadata, metadata_of

ROOT = Path(__file__).parents[1]
INPUTS = ROOT / "tests/data/inputs"
MINI = model_zoo.get_checkpoint("mini/sam_detr_smca")
NAMES, IDS = "thing_classes", "thing_dataset_id_to_contiguous_id"
KEPT = {  # of a run on ten other classes
    NAMES: [f"digit {i}" for i in range(10)],
    IDS: {category: index for index, category in enumerate((5, 9, 7, *range(20, 27)))},
}


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


def test_what_a_checkpoint_knows_comes_before_the_config(cfg):
    found = metadata_of(cfg, {"metadata": KEPT})
    assert {key: found.get(key) for key in KEPT} == KEPT
    cfg.dataloader.test.dataset = {"classes": ["cat", "dog"], "category_ids": [5, 9]}
    found = metadata_of(cfg, {"metadata": {NAMES: ["cat", "dog"]}})
    assert found.get(IDS) == {5: 0, 9: 1}
    found = metadata_of(cfg, {"metadata": {NAMES: ["dog", "cat"]}})
    assert found.get(IDS) is None  # those of other classes say nothing


@pytest.mark.parametrize("metadata", [None, "text", {"epoch": 3}, {}])
def test_metadata_of_other_trainers_are_ignored(cfg, metadata):
    assert metadata_of(cfg, {"metadata": metadata}).thing_classes == [str(x) for x in range(10)]


def test_what_a_run_keeps_is_plain(cfg):
    state = ClassMetadata(cfg).state_dict()
    assert state == {NAMES: [str(x) for x in range(10)], IDS: {i + 1: i for i in range(10)}}
    assert [type(x) for x in state.values()] == [list, dict]
    cfg.dataloader.test = {}
    assert ClassMetadata(cfg).state_dict() == {}


@pytest.fixture
def checkpoint(tmp_path):
    """The shipped weights as of a run on other data."""
    torch.save({"model": load_file(MINI)["model"], "metadata": KEPT}, tmp_path / "model.pth")
    return str(tmp_path / "model.pth")


def test_a_predictor_has_what_the_checkpoint_knows(checkpoint):
    found = Predictor("mini/sam_detr_smca", checkpoint, device="cpu").metadata
    assert {key: found.get(key) for key in KEPT} == KEPT


def test_an_exported_file_has_what_the_checkpoint_knows(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(exporter, "export_model", lambda _, paths, settings, facts, report: facts)
    config = str(ROOT / "configs/mini/sam_detr_smca.py")
    output = [tmp_path / "model.ts"]
    facts = exporter.export_config(
        config, ["train.device=cpu"], checkpoint, output, exporter.DEFAULT
    )
    assert facts["classes"] == KEPT[NAMES]
    assert facts["category_ids"] == [5, 9, 7, *range(20, 27)]


@pytest.mark.slow
def test_ids_of_a_run_come_out_of_its_checkpoints_without_its_data(tmp_path):
    data, run = tmp_path / "data.json", tmp_path / "run"
    shutil.copy(INPUTS / "ids_5_9.json", data)
    parts = [
        x
        for part in ("train", "val")
        for x in (f"--{part}-json", data, f"--{part}-images", INPUTS / "images")
    ]
    settings = ["train.device=cpu", "train.max_iter=2", "dataloader.train.total_batch_size=2"]
    settings += [f"train.init_checkpoint={MINI}", f"train.output_dir={run}"]
    config = ROOT / "configs/mini/sam_detr_smca.py"
    assert train_net("--config-file", config, *parts, *settings) == 0
    data.unlink()

    for name in ("model_final", "model_best"):
        state = load_file(run / f"{name}.pth")["metadata"]
        assert state == {NAMES: ["odd", "even"], IDS: {5: 0, 9: 1}}
        kept = DetectionCheckpointer(nn.Module()).load(str(run / f"{name}.pth"))["metadata"]
        assert kept == state
    options = ["--config-file", config, "--checkpoint", run / "model_final.pth", "--device", "cpu"]
    options += ["--opts", "model.num_classes=2", "--input", INPUTS / "images", "--threshold", "0"]
    assert run_script("demo.py", *options, "--json", tmp_path / "results.json") == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert {x["category_id"] for x in results} == {5, 9}
