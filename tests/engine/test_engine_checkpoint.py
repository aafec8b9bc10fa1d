"""Checkpoints fit, or the error says what differs."""

import argparse
import pickle
from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from samdetr.checkpoint import Checkpointer, CheckpointError, InitialCheckpointer
from samdetr.engine import Trainer
from samdetr.engine.hooks import BestCheckpointer
from samdetr.engine.resuming import Seed
from samdetr.engine.train import initialize
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


def test_a_pickled_backbone_of_arrays_fills_the_backbone(tmp_path):
    source, model = ToyModel(), ToyModel()
    state = {key: value.numpy() for key, value in of_backbone(source, "").items()}
    path = tmp_path / "R-50.pkl"
    path.write_bytes(
        pickle.dumps({"model": state, "__author__": "us", "matching_heuristics": True})
    )

    InitialCheckpointer(model).load(str(path))

    assert_same(model.backbone.state_dict(), source.backbone.state_dict())


def test_what_stays_random_is_logged(tmp_path, caplog):
    model = ToyModel()
    path = saved(tmp_path, of_backbone(model))
    checkpointer = InitialCheckpointer(model)
    checkpointer.logger.propagate = True  # Detectron2's set-up stops it
    with caplog.at_level("INFO"):
        checkpointer.load(path)
    assert "fills the backbone; random weights remain in head, norm" in caplog.text


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


def test_long_lists_of_keys_are_cut(tmp_path):
    state = {**ToyModel().state_dict(), **{f"extra.{i}": torch.zeros(1) for i in range(20)}}
    with pytest.raises(CheckpointError) as error:
        Checkpointer(ToyModel()).load(saved(tmp_path, state))
    assert "20 not in the model: extra.0," in str(error.value)
    assert str(error.value).endswith("extra.7, ...")


def test_a_file_of_another_code_base_gets_a_hint(tmp_path):
    path = saved(tmp_path, {"transformer.encoder.weight": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"no key fits: .*convert_checkpoint\.py"):
        InitialCheckpointer(ToyModel()).load(path)


def test_normalisation_constants_are_tolerated(tmp_path):
    source, model = ToyModel(), ToyModel()
    path = saved(tmp_path, {**source.state_dict(), "pixel_mean": torch.zeros(3, 1, 1)})
    Checkpointer(model).load(path)
    assert_same(model.state_dict(), source.state_dict())


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 half a file"])
def test_a_broken_file_is_named(tmp_path, content):
    path = tmp_path / "broken.pth"
    path.write_bytes(content)
    checkpointer = Checkpointer(ToyModel())
    for _ in range(2):  # a failed load leaves the checkpointer usable
        with pytest.raises(CheckpointError, match=r"broken\.pth cannot be read as a checkpoint"):
            checkpointer.load(str(path))


@pytest.mark.parametrize(
    "path", ["nowhere/model.pth", "http://127.0.0.1:9/model.pth", "detectron2://R-50.pkl"]
)
def test_a_missing_file_is_named_with_the_override(path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("urllib.request.urlretrieve", refuse)
    with pytest.raises(CheckpointError) as error:
        initialize(ToyModel(), path)
    assert path in str(error.value)
    assert "train.init_checkpoint=PATH" in str(error.value)


def test_no_file_leaves_the_model_as_it_is():
    model = ToyModel()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    initialize(model, "")
    assert_same(model.state_dict(), state)


# The state of a run


def make_trainer(fused=True):
    torch.manual_seed(0)
    model = ToyModel()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=fused)
    amp = {"enabled": False, "dtype": "bfloat16"}
    clip_grad = {"max_norm": 0.1, "norm_type": 2.0}
    trainer = Trainer(model, ToyLoader(epoch=20), optimizer, amp, clip_grad)
    trainer.register_hooks([Seed(3)])
    return trainer


@cache
def state_of_run():
    trainer = make_trainer()
    trainer.train(0, 3)
    return trainer.state_dict()


def resumed(tmp_path, state, fused=True):
    trainer = make_trainer(fused)
    path = saved(tmp_path, trainer.model.state_dict(), trainer=state)
    Checkpointer(trainer.model, trainer=trainer).load(path)
    return trainer


def places(value, place=()):
    """Where there is something in a state, from the outside in."""
    yield place
    inside = {list: enumerate, dict: lambda x: x.items()}.get(type(value), lambda x: ())
    for key, part in inside(value):
        yield from places(part, (*place, key))


def changed(state, place, value):
    """The state with another value, or without one if that is `LEFT_OUT`."""
    if not place:
        return value
    key, *deeper = place
    state = [*state] if isinstance(state, list) else dict(state)
    if deeper or value is not LEFT_OUT:
        state[key] = changed(state[key], deeper, value)
    else:
        del state[key]
    return state


LEFT_OUT = "left out"
MOMENT = ("optimizer", "state", 0, "exp_avg")
UNFIT = [
    ((), 5, "trainer is a int"),
    ((), None, "trainer is a NoneType"),
    ((), {}, "iteration is None"),
    ((), {"optimizer": {}}, "iteration is None"),
    ((), {"iteration": 1}, "grad_scaler is a NoneType"),
    (("iteration",), "1", "iteration is '1'"),
    (("iteration",), -1, "iteration is -1"),
    (("iteration",), 1.0, "iteration is 1.0"),
    (("iteration",), torch.ones(2), "iteration is a Tensor"),
    (("skipped",), None, "skipped is None"),
    (("hooks",), 5, "hooks is a int"),
    (("hooks", "Seed"), 5, "the state of the seed is a int"),
    (("hooks", "Seed"), {}, "seed is None"),
    (("hooks", "Seed", "seed"), -1, "seed is -1"),
    (("hooks", "Seed", "processes"), 0, "processes is 0"),
    (("grad_scaler",), [], "grad_scaler is a list"),
    (("grad_scaler",), {"scale": "x"}, "grad_scaler.scale is 'x'"),
    (("optimizer",), {}, "optimizer.param_groups are not 1"),
    (("optimizer", "param_groups"), [], "optimizer.param_groups are not 1"),
    (("optimizer", "param_groups", 0), 5, "a group of the optimizer is a int"),
    (("optimizer", "param_groups", 0, "params"), [0], "a group of the optimizer has not 6"),
    (("optimizer", "param_groups", 0, "params", 0), "x", "does not number its parameters"),
    (("optimizer", "param_groups", 0, "lr"), "x", "optimizer.lr is 'x'"),
    (("optimizer", "param_groups", 0, "lr"), float("nan"), "optimizer.lr is nan"),
    (("optimizer", "param_groups", 0, "lr"), LEFT_OUT, "a group of the optimizer has no lr"),
    (("optimizer", "param_groups", 0, "lr"), None, "optimizer.lr is None"),
    (
        ("optimizer", "param_groups", 0, "amsgrad"),
        True,
        "optimizer.amsgrad is True, expected False",
    ),
    (("optimizer", "param_groups", 0, "betas"), 5, "optimizer.betas is 5, expected 2"),
    (("optimizer", "param_groups", 0, "betas"), (0.1, "x"), "optimizer.betas is 'x'"),
    (("optimizer", "param_groups", 0, "eps"), torch.ones(2), "optimizer.eps is a Tensor"),
    (("optimizer", "state"), [], "optimizer.state is a list"),
    (("optimizer", "state", 99), {}, "optimizer.state has no parameter 99"),
    (("optimizer", "state", 0), 5, "optimizer.state of a parameter is a int"),
    (MOMENT, LEFT_OUT, "optimizer.state of a parameter has no exp_avg"),
    (MOMENT, "x", "optimizer.state.exp_avg is 'x'"),
    (MOMENT, 5, "optimizer.state.exp_avg is 5, expected a tensor"),
    (MOMENT, None, "optimizer.state.exp_avg is None, expected a tensor"),
    (MOMENT, torch.ones(1), r"exp_avg has the shape \(1,\), expected \(8, 3\)"),
    (MOMENT, torch.ones(3, 8), r"exp_avg has the shape \(3, 8\), expected \(8, 3\)"),
    (MOMENT, torch.ones(8, 3, device="meta"), "exp_avg is without numbers"),
    (MOMENT, torch.ones(8, 3).to_sparse(), "exp_avg is sparse"),
    (MOMENT, torch.ones(8, 3) * 1j, "exp_avg is complex"),
    ((*MOMENT[:-1], "step"), torch.ones(2), r"step has the shape \(2,\), expected \(\)"),
    ((*MOMENT[:-1], "step"), torch.tensor(-1.0), "optimizer.state.step is -1"),
]


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(("place", "value", "words"), UNFIT, ids=[x for *_, x in UNFIT])
def test_a_state_of_another_run_is_one_error(tmp_path, place, value, words, fused):
    state = state_of_run()
    if 99 in place:
        state = changed(state, place[:-1], {**state["optimizer"]["state"], 99: value})
    else:
        state = changed(state, place, value)
    with pytest.raises(CheckpointError, match=rf"file\.pth cannot be loaded: .*{words}") as error:
        resumed(tmp_path, state, fused)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(
    "layout", [lambda x: x.mean().expand_as(x), lambda x: x.t().contiguous().t(), torch.Tensor.half]
)
def test_moments_in_any_memory_are_gone_on_from(tmp_path, layout, fused):
    """A fused kernel goes through them as through the parameter, whatever their strides."""
    moment = layout(state_of_run()["optimizer"]["state"][0]["exp_avg"])
    trainer = resumed(tmp_path, changed(state_of_run(), MOMENT, moment), fused)
    parameter = trainer.optimizer.param_groups[0]["params"][0]
    loaded = trainer.optimizer.state[parameter]["exp_avg"]
    assert loaded.stride() == parameter.stride() and loaded.dtype == parameter.dtype
    assert loaded.untyped_storage().nbytes() >= parameter.untyped_storage().nbytes()
    torch.testing.assert_close(loaded, moment.float(), rtol=0, atol=0)
    trainer.train(3, 4)


VALUES = [LEFT_OUT, 5, -1, 0, None, True, "x", {}, [], [1], 1e300, float("nan"), 2**70]
VALUES += [{"x": 1}, (0.5, 0.5), torch.ones(()), torch.ones(2), torch.ones(8, 3), torch.ones(0)]


@given(data=st.data())
def test_a_changed_state_is_refused_or_trains(tmp_path, data):
    place = data.draw(st.sampled_from([*places(state_of_run())]))
    value = data.draw(st.sampled_from(VALUES)) if place else 5
    try:
        trainer = resumed(tmp_path, changed(state_of_run(), place, value), data.draw(st.booleans()))
    except CheckpointError as error:
        assert "file.pth cannot be loaded: " in str(error)
        return
    start = trainer.iter + 1
    try:
        trainer.train(start, start + 2)
    except FloatingPointError as error:  # which ends a run with one sentence
        assert "not finite" in str(error) or "is nan" in str(error) or "is inf" in str(error)
    assert trainer.iter > start


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"5",
        b"[]",
        b"{}",
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"bbox/AP": 1}',
        b'{"bbox/AP": "x", "iteration": 1}',
        b'{"bbox/AP": NaN, "iteration": 1}',
        b'{"bbox/AP": 1e999, "iteration": 1}',
        b'{"bbox/AP": 1, "iteration": "1"}',
        b'{"bbox/AP": 1, "iteration": -1}',
        b'{"bbox/AP": 1' + b"0" * 400 + b', "iteration": 1}',
        b'{"bbox/AP": {"x": 1}, "iteration": 1}',
    ],
    ids=lambda x: repr(x[:40]),
)
def test_the_best_of_a_run_is_numbers_or_one_error(tmp_path, content):
    checkpointer = Checkpointer(ToyModel(), str(tmp_path))
    hook = BestCheckpointer(1, checkpointer, "bbox/AP")
    hook.trainer = make_trainer()
    hook.trainer.start_iter = 2
    (tmp_path / "model_best.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model_best\.json cannot be read: .* bbox/AP"):
        hook.before_train()
    (tmp_path / "model_best.json").write_bytes(b'{"bbox/AP": 0.5, "iteration": 1}')
    hook.before_train()
    assert (hook.best_metric, hook.best_iter) == (0.5, 1)
