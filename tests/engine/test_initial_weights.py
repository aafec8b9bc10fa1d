"""What a run starts from, and what a resumed run changes."""

import logging

import pytest
import torch
from detectron2.config import instantiate
from test_accumulation import CONFIGS
from torch.testing import assert_close

from interruption import measured, toy
from samdetr.checkpoint import InitialCheckpointer
from samdetr.engine import ConfigError, TrainingError, load_config, train
from samdetr.errors import CheckpointError
from toy import ToyModel


def mini(name, *overrides):
    return instantiate(load_config(str(CONFIGS / f"{name}.py"), overrides).model)


def saved(model, folder):
    torch.save({"model": model.state_dict()}, folder / "weights.pth")
    return str(folder / "weights.pth")


def differing(model, source):
    """Names of the parameters that are not those of the source."""
    source = source.state_dict()
    return {
        name
        for name, x in model.state_dict().items()
        if name not in source or x.shape != source[name].shape or (x != source[name]).any()
    }


@pytest.mark.parametrize("prefix", ["head", "head.", "head.bias"])
def test_reset_parameters_keep_their_initial_values(tmp_path, prefix, caplog):
    caplog.set_level(logging.INFO)
    source, model = ToyModel(), ToyModel()
    initial = {name: x.clone() for name, x in model.state_dict().items()}
    InitialCheckpointer(model, [prefix]).load(saved(source, tmp_path))
    reset = {name for name in initial if name.startswith(prefix)}
    assert differing(model, source) == reset
    for name in reset:
        assert torch.equal(model.state_dict()[name], initial[name])
        assert name in caplog.text


def test_reset_parameters_may_have_another_shape(tmp_path):
    source, model = ToyModel(num_classes=4), ToyModel(num_classes=6)
    path = saved(source, tmp_path)
    with pytest.raises(CheckpointError):
        InitialCheckpointer(model).load(path)
    InitialCheckpointer(model, ["head"]).load(path)
    assert differing(model, source) == {"head.weight", "head.bias"}


def test_a_reset_prefix_of_no_parameter_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="haed"):
        train(toy(tmp_path, "train.init_reset=[haed]"))


@pytest.mark.parametrize("name", ["sam_detr", "detr"])
@pytest.mark.parametrize("queries", [20, 40])
def test_another_number_of_queries_keeps_the_first_ones(tmp_path, name, queries, caplog):
    caplog.set_level(logging.INFO)
    source, model = mini(name), mini(name, f"model.num_queries={queries}")
    key = {"sam_detr": "queries.reference.weight", "detr": "decoder.position.embedding.weight"}
    key = key[name]
    drawn = model.state_dict()[key].clone()
    InitialCheckpointer(model).load(saved(source, tmp_path))
    assert differing(model, source) == {key}
    found, kept = model.state_dict()[key], source.state_dict()[key][:queries]
    assert_close(found, torch.cat([kept, drawn[len(kept) :]]), rtol=0, atol=0)
    assert f"{min(queries, 30)} of 30 rows of {key}" in caplog.text


def test_denoising_may_be_new_and_classes_too(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    source = mini("sam_detr")
    model = mini("sam_detr_dn", "model.num_classes=3", "model.num_queries=25")
    drawn = model.denoising.labels.weight.clone()
    InitialCheckpointer(model).load(saved(source, tmp_path))
    new = {x for x in differing(model, source) if ".classes." not in x}
    assert new == {"denoising.labels.weight", "queries.reference.weight"}
    assert_close(model.denoising.labels.weight, drawn)
    assert "initial values stay in denoising.labels.weight" in caplog.text


def test_a_resumed_run_takes_new_rates_and_says_so(tmp_path, caplog):
    caplog.set_level(logging.INFO, "samdetr")
    train(toy(tmp_path, "train.max_iter=6"))
    new = "optimizer.lr=0.002", "optimizer.weight_decay=0.5", "optimizer.betas=[0.8,0.9]"
    train(toy(tmp_path, *new, "train.max_iter=16"), resume=True)
    assert measured(tmp_path)[7, "lr"] == pytest.approx(0.002)  # 7 of 16 is before the milestone
    groups = torch.load(tmp_path / "model_final.pth")["trainer"]["optimizer"]["param_groups"]
    assert {group["weight_decay"] for group in groups} == {0.5}
    assert {tuple(group["betas"]) for group in groups} == {(0.8, 0.9)}
    for text in ("initial_lr 0.01 -> 0.002", "weight_decay 0.0001 -> 0.5", "is 0.002"):
        assert text in caplog.text


def test_a_stretched_schedule_names_the_rate_at_the_next_step(tmp_path, caplog):
    caplog.set_level(logging.INFO, "samdetr")
    train(toy(tmp_path, "train.max_iter=6"))  # its rate falls to a tenth at iteration 5
    train(toy(tmp_path, "train.max_iter=20"), resume=True)
    assert "iteration 6 is 0.01; the checkpoint's schedule has 0.001" in caplog.text
    assert measured(tmp_path)[7, "lr"] == pytest.approx(0.01)


def test_a_resumed_run_of_the_same_config_says_nothing_of_rates(tmp_path, caplog):
    caplog.set_level(logging.INFO, "samdetr")
    train(toy(tmp_path, "train.max_iter=12"))
    (tmp_path / "last_checkpoint").write_text("model_0000005.pth")
    train(toy(tmp_path, "train.max_iter=12"), resume=True)
    assert "learning rate at" not in caplog.text and "optimizer changes" not in caplog.text


def test_other_parameters_cannot_be_resumed(tmp_path):
    train(toy(tmp_path, "train.max_iter=6"))
    with pytest.raises((CheckpointError, TrainingError), match=r"train\.freeze"):
        train(toy(tmp_path, "train.freeze=[backbone]"), resume=True)


def test_reset_parts_may_be_of_another_kind(tmp_path):
    source, model = ToyModel(), ToyModel()
    source.head = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 4))
    InitialCheckpointer(model, ["head"]).load(saved(source, tmp_path))
    assert differing(model, source) == {"head.weight", "head.bias"}
