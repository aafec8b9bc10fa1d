"""Weights & Biases without network, and MLflow with files: metrics, pictures, resumption."""

import importlib.util
import logging

import numpy as np
import pytest
import torch
from detectron2.data import Metadata
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage, EventWriter
from test_engine_training import metrics, run

from samdetr import writers
from samdetr.engine import ConfigError
from samdetr.visualize import DetectionPictures


@pytest.fixture
def mlflow(tmp_path, monkeypatch):
    """MLflow, which stores its runs in files."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path / 'mlruns'}")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "toys")
    mlflow = pytest.importorskip("mlflow")
    mlflow.set_tracking_uri(None)  # as the environment says
    yield mlflow
    mlflow.end_run()


def runs_of(mlflow):
    experiment = mlflow.get_experiment_by_name("toys").experiment_id
    return mlflow.MlflowClient().search_runs([experiment])


@pytest.mark.slow
def test_mlflow_has_the_metrics_of_metrics_json_and_goes_on_with_its_run(tmp_path, mlflow):
    folder = tmp_path / "detector"
    run(folder, "train.writers=[mlflow]", "train.max_iter=6")
    run(folder, "train.writers=[mlflow]", "train.max_iter=9", resume=True)
    (found,) = runs_of(mlflow)
    assert found.info.run_name == "detector" and found.info.status == "FINISHED"
    history = mlflow.MlflowClient().get_metric_history(found.info.run_id, "total_loss")
    rows = metrics(folder)
    written = {row["iteration"]: row["total_loss"] for row in rows if "total_loss" in row}
    assert {x.step: x.value for x in history} == pytest.approx(written)
    assert sorted(written) == list(range(9))
    assert found.data.metrics["bbox/AP"] == 50.0


@pytest.mark.slow
def test_a_new_run_in_the_same_folder_is_a_new_one_of_mlflow(tmp_path, mlflow):
    for _ in range(2):
        run(tmp_path / "detector", "train.writers=[mlflow]", "train.max_iter=2")
    assert len(runs_of(mlflow)) == 2


@pytest.mark.slow
def test_wandb_is_written_without_network(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run(tmp_path, "train.writers=[wandb]", "train.max_iter=3")
    (file,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    assert (tmp_path / "wandb.run_id").read_text() in file.name
    content = file.read_bytes()
    assert b"total_loss" in content and b"bbox/AP" in content


class Noted(writers.TrackingWriter):
    """Notes what it is given; fails at an iteration."""

    package = "torch"
    fails = None

    def start(self, run_id):
        self.run = []
        return run_id or "new"

    def log(self, iteration, values):
        if iteration == self.fails:
            raise ConnectionError("no route to host")
        self.run.append((iteration, values))


def test_scalars_and_pictures_are_written_once(tmp_path):
    writer = Noted(str(tmp_path))
    with EventStorage(0) as storage:
        for storage.iter in range(2):
            storage.put_scalar("loss", storage.iter + 0.5, smoothing_hint=False)
        storage.put_image("picture", torch.arange(12).reshape(3, 2, 2))
        writer.write()
        storage.clear_images()
        writer.write()
    ((iteration, values),) = writer.run
    assert (iteration, values["loss"]) == (1, 1.5)
    assert np.array_equal(values["picture"][0, 1], [1, 5, 9])


def test_a_service_that_fails_is_said_once_and_left(tmp_path, caplog):
    writer = Noted(str(tmp_path))
    writer.fails = 1
    with EventStorage(0) as storage, caplog.at_level(logging.WARNING):
        for storage.iter in range(4):
            storage.put_scalar("loss", 1.0)
            writer.write()
    assert writer.run == [(0, {"loss": 1.0})]
    assert caplog.text.count("no route to host") == 1


def test_a_missing_package_and_an_unknown_writer_are_refused_before_training(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="tensorbord"):
        run(tmp_path, "train.writers=[tensorbord]")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"samdetr\[wandb\]"):
        run(tmp_path, "train.writers=[wandb]")
    assert not list(tmp_path.glob("*.pth"))


class Given(EventWriter):
    """Notes the pictures it is given."""

    names: list = []

    def __init__(self, label):
        self.label = label

    def write(self):
        from detectron2.utils.events import get_event_storage

        self.names.extend((self.label, name) for name, *_ in get_event_storage()._vis_data)


def test_writers_of_ones_own_are_given_pictures_of_every_evaluation(tmp_path):
    Given.names.clear()
    call = "{_target_: test_writers.Given, label: x}"
    run(tmp_path, f"train.writers=[{call}]", "train.eval_pictures=2", "train.eval_period=6")
    assert Given.names == [("x", "detections/0"), ("x", "detections/1")] * 2


def test_detections_are_drawn_where_they_are_in_the_image():
    image = torch.full((3, 48, 96), 200.0)
    found = Instances((24, 48))  # the size that detections are scaled to
    found.pred_boxes = Boxes(torch.tensor([[12.0, 6.0, 36.0, 18.0], [0.0, 0.0, 5.0, 5.0]]))
    found.scores, found.pred_classes = torch.tensor([0.9, 0.1]), torch.tensor([1, 0])
    pictures = DetectionPictures(Metadata(thing_classes=["a", "b"]), "RGB", count=1)
    with EventStorage(0) as storage:
        pictures.reset()
        pictures.process([{"image": image}] * 2, [{"instances": found}] * 2)
        ((_, drawn, _),) = storage._vis_data
    changed = (drawn != 200).any(0).float()  # (192, 384), four times as large
    assert changed.shape == (192, 384)
    assert changed[:, 94:99].mean() > 0.2 and changed[46:51].mean() > 0.2  # left and upper side
    assert changed[:40, :80].sum() == 0  # the second box is below the threshold
