"""Checkpoints fit, or the error says what differs."""

import argparse
import json

import pytest
import torch
from torch import nn

from samdetr.checkpoint import Checkpointer, CheckpointError, InitialCheckpointer
from samdetr.engine import Trainer
from samdetr.engine.hooks import BestCheckpointer, Seed, rewind
from toy import ToyLoader, ToyModel


def saved(tmp_path, state, **others):
    path = tmp_path / "file.pth"
    torch.save({"model": state, **others}, path)
    return str(path)


def of_backbone(model, prefix="backbone."):
    state = model.state_dict()
    return {prefix + k[9:]: v for k, v in state.items() if k.startswith("backbone.")}


def assert_same(state, expected):
    assert state.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(state[key], value, rtol=0, atol=0)


def test_a_whole_model_is_filled(tmp_path):
    source, model = ToyModel(), ToyModel()
    # DETR's files hold the command line too, which torch does not load by itself.
    path = saved(tmp_path, source.state_dict(), args=argparse.Namespace(lr=0.1), iteration=3)

    others = Checkpointer(model).load(path)

    assert_same(model.state_dict(), source.state_dict())
    assert others["iteration"] == 3


@pytest.mark.parametrize("heuristics", [True, False])
def test_a_backbone_fills_the_backbone_and_nothing_else(tmp_path, heuristics):
    source, model = ToyModel(), ToyModel()
    head = {key: value.clone() for key, value in model.head.state_dict().items()}
    state = of_backbone(source, "" if heuristics else "backbone.")
    state["fc.weight"] = torch.zeros(1000, 8)  # what classified before
    path = saved(tmp_path, state, matching_heuristics=heuristics)

    InitialCheckpointer(model).load(path)

    assert_same(model.backbone.state_dict(), source.backbone.state_dict())
    assert_same(model.head.state_dict(), head)


def test_a_backbone_is_no_model_to_evaluate(tmp_path):
    path = saved(tmp_path, of_backbone(ToyModel()))
    with pytest.raises(CheckpointError, match=r"4 missing: .*head\.bias \(it is a backbone's file"):
        Checkpointer(ToyModel()).load(path)


@pytest.mark.parametrize("checkpointer", [Checkpointer, InitialCheckpointer])
def test_another_variant_is_an_error_that_names_the_keys(tmp_path, checkpointer):
    state = ToyModel().state_dict()
    state["gate.weight"] = state.pop("head.bias")
    with pytest.raises(CheckpointError) as error:
        checkpointer(ToyModel(dim=16)).load(saved(tmp_path, state))
    assert "1 missing: head.bias; 1 not in the model: gate.weight; 5 of another" in str(error.value)
    assert "backbone.0.weight (8, 3) instead of (16, 3)" in str(error.value)


def test_a_backbone_of_another_size_is_an_error_about_the_backbone_alone(tmp_path):
    model = ToyModel()
    model.backbone = nn.Sequential(model.backbone[0], nn.Linear(8, 8))
    with pytest.raises(CheckpointError) as error:
        InitialCheckpointer(model).load(saved(tmp_path, of_backbone(ToyModel())))
    assert str(error.value).endswith("2 missing: backbone.1.weight, backbone.1.bias")


def test_normalisation_constants_are_tolerated(tmp_path):
    source, model = ToyModel(), ToyModel()
    path = saved(tmp_path, {**source.state_dict(), "pixel_mean": torch.zeros(3, 1, 1)})
    Checkpointer(model).load(path)
    assert_same(model.state_dict(), source.state_dict())


# The state of a run


def make_trainer():
    torch.manual_seed(0)
    model = ToyModel()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)
    amp = {"enabled": False, "dtype": "bfloat16"}
    clip_grad = {"max_norm": 0.1, "norm_type": 2.0}
    trainer = Trainer(model, ToyLoader(epoch=20), optimizer, amp, clip_grad)
    trainer.register_hooks([Seed(3)])
    return trainer


def resumed(tmp_path, state):
    trainer = make_trainer()
    path = saved(tmp_path, trainer.model.state_dict(), trainer=state)
    Checkpointer(trainer.model, trainer=trainer).load(path)
    return trainer


@pytest.mark.parametrize(
    "state",
    [5, {}, {"iteration": 1, "optimizer": {"param_groups": [], "state": {}}}],
    ids=["a number", "nothing", "another optimiser"],
)
def test_a_state_of_another_run_is_an_error_that_names_the_file(tmp_path, state):
    with pytest.raises(CheckpointError, match=r"file\.pth cannot be loaded: ") as error:
        resumed(tmp_path, state)
    assert "\n" not in str(error.value)


def test_the_best_of_a_run_is_continued_unless_the_metric_is_another(tmp_path):
    (tmp_path / "model_best.json").write_text('{"bbox/AP": 0.5, "iteration": 1}')
    for metric, best in (("bbox/AP", (0.5, 1)), ("bbox/AP50", (None, None))):
        hook = BestCheckpointer(1, Checkpointer(ToyModel(), str(tmp_path)), metric)
        hook.trainer = make_trainer()
        hook.trainer.start_iter = 2
        hook.before_train()
        assert (hook.best_metric, hook.best_iter) == best


def test_metrics_after_the_checkpoint_are_removed_and_kept_aside(tmp_path):
    file = tmp_path / "metrics.json"
    content = '{"iteration": 1, "lr": 1}\n{"bbox/AP": 3, "iteration": 2}\n'
    content += '{"bbox/AP": 3, "iteration": 3, "lr": 1}\n{"iteration": 4, "lr": 2}\n{"iterat'
    file.write_text(content)
    rewind(str(tmp_path), 4)
    assert [json.loads(x) for x in file.read_text().splitlines()] == [
        {"iteration": 1, "lr": 1},
        {"iteration": 2, "bbox/AP": 3},
        {"iteration": 3, "lr": 1},  # the evaluation of the last iteration is repeated
    ]
    assert (tmp_path / "metrics.json.previous").read_text() == content
