"""Epochs, learning rates that follow the batch size, and the early end of a training."""

import json
import logging

import pytest
import torch
from test_engine_training import config, metrics, run

from interruption import measured, rows, toy
from samdetr.engine import ConfigError, train
from samdetr.engine.config import apply_overrides

# The toy of interruption.py has 10 images and 4 of them in a batch.


def test_epochs_set_the_iterations_and_the_periods(tmp_path):
    cfg = toy(tmp_path, "train.epochs=3", "train.eval_epochs=1.5", "train.checkpoint_epochs=1")
    train(cfg)
    assert cfg.train.max_iter == 8  # 3 * 10 / 4 = 7.5
    evaluated = [row["iteration"] for row in rows(tmp_path) if "bbox/AP" in row]
    assert evaluated == [3, 8]  # every 4th, and the end
    saved = {x.name for x in tmp_path.glob("model_0*.pth")}
    assert saved == {"model_0000002.pth", "model_0000005.pth"}


def test_an_accumulated_step_is_several_batches_of_an_epoch(tmp_path):
    cfg = toy(tmp_path, "train.epochs=2", "train.accumulate=2", "train.eval_epochs=null")
    train(cfg)
    assert (cfg.train.max_iter, cfg.train.eval_period) == (3, 3)  # 2 * 10 / 8 = 2.5


def test_a_run_in_epochs_is_the_one_in_iterations(tmp_path):
    periods = "train.eval_epochs=null", "train.checkpoint_epochs=null"
    for name, length in (("epochs", "train.epochs=4"), ("iterations", "train.max_iter=10")):
        (tmp_path / name).mkdir()
        train(toy(tmp_path / name, length, *periods))
    one, two = rows(tmp_path / "epochs"), rows(tmp_path / "iterations")
    assert one == two


@pytest.mark.parametrize("epochs", ["0", "-1"])
def test_no_epochs_are_refused(tmp_path, epochs):
    with pytest.raises(ConfigError, match="epochs"):
        train(toy(tmp_path, f"train.epochs={epochs}"))


def test_the_learning_rate_follows_the_images_of_a_step(tmp_path):
    scaled = "optimizer.base_batch_size=16", "dataloader.train.total_batch_size=2"
    train(toy(tmp_path, *scaled, "train.accumulate=2", "optimizer.lr=0.04"))
    assert measured(tmp_path)[3, "lr"] == pytest.approx(0.04 * 4 / 16)


def test_a_run_ends_when_its_metric_has_stopped_rising(tmp_path, caplog):
    caplog.set_level(logging.INFO, "samdetr")
    stops = "train.early_stop.patience=2", "train.early_stop.min_gain=1", "train.eval_period=2"
    aps = "dataloader.evaluator.aps=[10,20,20.5,20.9,90]"
    assert run(tmp_path, *stops, aps, "train.max_iter=40")["bbox"]["AP"] == 20.9
    evaluated = [row["iteration"] for row in metrics(tmp_path) if "bbox/AP" in row]
    assert evaluated == [1, 3, 5, 7]
    assert torch.load(tmp_path / "model_final.pth")["iteration"] == 7
    assert json.loads((tmp_path / "model_best.json").read_text())["bbox/AP"] == 20.9
    before = (tmp_path / "metrics.json").read_text()

    assert run(tmp_path, *stops, aps, "train.max_iter=40", resume=True) == {}
    assert "finished" in caplog.text
    assert (tmp_path / "metrics.json").read_text() == before


def test_a_finished_run_is_not_trained_or_evaluated_anew(tmp_path, caplog):
    caplog.set_level(logging.INFO, "samdetr")
    run(tmp_path, "train.eval_period=4")
    before = {x: x.stat().st_mtime_ns for x in tmp_path.iterdir()}
    for max_iter in (12, 8):  # that of the run, and one that it has passed
        assert run(tmp_path, f"train.max_iter={max_iter}", resume=True) == {}
        assert f"train.max_iter is {max_iter}" in caplog.text
    assert {x: x.stat().st_mtime_ns for x in tmp_path.iterdir()} == before


def test_validation_losses_are_those_of_all_boxes_at_once(tmp_path):
    from test_accumulation import detector, images

    from samdetr.validation import ValidationLoss

    class Loader:
        mapper: dict = {}

    model, records = detector("sam_detr_pp_smca_dn"), images()
    model.training = False
    with torch.no_grad():
        expected = {name: float(x) for name, x in model.losses(records).items()}
    loss = ValidationLoss.__new__(ValidationLoss)
    loss.model, loss.loader = model, [records[:1], records[1:4], records[4:]]
    found = loss()
    assert found.pop("total_loss") == pytest.approx(sum(expected.values()), rel=1e-5)
    assert found == pytest.approx(expected, rel=1e-4)


def test_a_model_without_losses_cannot_be_validated_by_them(tmp_path):
    with pytest.raises(ConfigError, match="eval_loss"):
        train(config(tmp_path, "train.eval_loss=True"))


def test_more_patience_continues_a_run_that_was_ended(tmp_path):
    options = "train.eval_period=2", "dataloader.evaluator.aps=[20]", "train.max_iter=40"
    run(tmp_path, *options, "train.early_stop.patience=2")
    assert [x["iteration"] for x in metrics(tmp_path) if "bbox/AP" in x] == [1, 3, 5]
    run(tmp_path, *options, "train.early_stop.patience=4", resume=True)
    # The evaluation after iteration 5 is repeated, and not counted twice.
    assert [x["iteration"] for x in metrics(tmp_path) if "bbox/AP" in x] == [1, 3, 5, 7, 9]


def test_an_early_end_needs_evaluations(tmp_path):
    with pytest.raises(ConfigError, match=r"eval_period=0"):
        run(tmp_path, "train.early_stop.patience=2", "train.eval_period=0")


def test_validation_losses_do_not_depend_on_random_numbers():
    from test_accumulation import detector, images

    model, records = detector("sam_detr_pp_smca_dn").eval(), images()
    with torch.no_grad():
        one, two = ({x: float(y) for x, y in model.losses(records).items()} for _ in range(2))
    assert one == two and not any(name.endswith("_dn") for name in one)


def test_workers_of_validation_losses_outlive_signals(tmp_path):
    from detectron2.config import LazyCall as L
    from detectron2.data import build_detection_test_loader

    from samdetr.data import DetectionMapper
    from samdetr.data.loader import outlive_signals
    from samdetr.validation import ValidationLoss

    cfg = config(tmp_path)
    mapper = L(DetectionMapper)(is_train=False, augmentations=[], image_format="RGB")
    cfg.dataloader.test = L(build_detection_test_loader)(dataset=[{}], mapper=mapper, num_workers=2)
    model = torch.nn.Module()
    model.losses = None
    assert ValidationLoss(cfg, model).loader.worker_init_fn is outlive_signals


@pytest.mark.parametrize("key", ["epochs", "eval_epochs", "checkpoint_epochs"])
def test_epochs_that_were_whole_may_become_fractions(tmp_path, key):
    cfg = toy(tmp_path, f"train.{key}=2")
    apply_overrides(cfg, [f"train.{key}=2.5"])
    assert cfg.train[key] == 2.5
