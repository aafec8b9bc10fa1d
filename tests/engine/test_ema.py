"""The exponential moving average of the weights: its values, and where it takes their place."""

import math

import pytest
import torch
from test_engine_training import config, run, weights
from torch.testing import assert_close

from interruption import finish, members, toy
from samdetr.engine import build_model, evaluate, train
from samdetr.engine.config import apply_overrides
from samdetr.engine.ema import EMA as EMAHook

EMA = ("train.ema.enabled=True", "train.ema.decay=0.9", "train.ema.warmup=5")


def trained_weights(file):
    """The weights that training continues from."""
    return torch.load(file)["trainer"]["hooks"]["EMA"]["model"]


def test_the_average_is_that_of_its_definition(tmp_path):
    every = ("train.checkpointer.period=1", "train.checkpointer.max_to_keep=null")
    run(tmp_path, *EMA, *every, "train.ema.period=2", "train.max_iter=6")
    files = sorted(tmp_path.glob("model_0*.pth"))
    torch.manual_seed(0)
    run(tmp_path / "start", *EMA, "train.ema.period=100", "train.max_iter=1")
    average = weights(tmp_path / "start/model_final.pth")  # the initial weights
    updates = 1
    for iteration, file in enumerate(files):
        current = trained_weights(file)
        if iteration % 2 == 1:
            decay = 0.9 * (1 - math.exp(-updates / 5))
            average = {x: decay * average[x] + (1 - decay) * current[x] for x in average}
            updates += 1
        assert_close(weights(file), average)
    assert updates == 4


def test_training_itself_is_that_without_an_average(tmp_path):
    run(tmp_path / "plain")
    run(tmp_path / "averaged", *EMA)
    plain = weights(tmp_path / "plain/model_final.pth")
    assert_close(trained_weights(tmp_path / "averaged/model_final.pth"), plain, rtol=0, atol=0)
    average = weights(tmp_path / "averaged/model_final.pth")
    assert any((average[name] != plain[name]).any() for name in plain)


def test_the_average_is_evaluated_and_is_the_best_model(tmp_path):
    results = train(toy(tmp_path, *EMA))
    best, final = (f"{tmp_path}/model_{name}.pth" for name in ("best", "final"))
    cfg = toy(tmp_path, f"train.init_checkpoint={final}")
    assert evaluate(cfg)["bbox"]["AP"] == results["bbox"]["AP"]
    assert "trainer" not in torch.load(best)


def test_a_run_may_begin_to_average_when_it_is_resumed(tmp_path):
    run(tmp_path, "train.max_iter=6")
    before = weights(tmp_path / "model_final.pth")
    run(tmp_path, *EMA, "train.max_iter=7", "optimizer.lr=1e-9", resume=True)
    assert_close(trained_weights(tmp_path / "model_final.pth"), before, rtol=0, atol=1e-5)


def test_a_config_of_an_older_run_needs_no_more_than_to_enable_it(tmp_path):
    cfg = toy(tmp_path, "train.max_iter=2")
    del cfg.train.ema
    apply_overrides(cfg, ["train.ema.enabled=True"])
    train(cfg)
    assert trained_weights(tmp_path / "model_final.pth")


@pytest.mark.slow
def test_processes_keep_the_same_average_as_one(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    options = *EMA, "train.accumulate=2", "dataloader.train.epoch=8"
    train(config(tmp_path / "one", *options))
    cfg = config(tmp_path / "two", *options)
    assert finish(*members(lambda cfg, rank: train(cfg) and None, cfg)) == [0, 0]
    one, two = (tmp_path / name / "model_final.pth" for name in ("one", "two"))
    assert_close(weights(two), weights(one), rtol=1e-4, atol=1e-5)
    assert_close(trained_weights(two), trained_weights(one), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_average_of_a_compiled_model_is_a_model_of_its_own(tmp_path):
    cfg = toy(tmp_path, "train.compile=[backbone]")
    model = build_model(cfg)
    average = EMAHook(model).average
    assert average.state_dict().keys() == model.state_dict().keys()
    assert not {id(x) for x in average.parameters()} & {id(x) for x in model.parameters()}
