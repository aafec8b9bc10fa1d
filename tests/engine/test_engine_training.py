"""The training loop: its step, its events, its checkpoints, and how it goes on and ends."""

import json
from pathlib import Path

import pytest
import torch

from samdetr.checkpoint import CheckpointError
from samdetr.engine import ConfigError, Trainer, TrainingError, evaluate, load_config, train
from toy import ToyLoader, ToyModel

TOY = str(Path(__file__).parents[1].joinpath("toy_config.py"))


def config(folder, *overrides):
    return load_config(TOY, [f"train.output_dir={folder}", *overrides])


def run(folder, *overrides, resume=False):
    torch.manual_seed(0)
    folder.mkdir(exist_ok=True)
    return train(config(folder, *overrides), resume)


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]


def weights(file):
    return torch.load(file)["model"]


def make_trainer(model, **amp):
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    amp = {"enabled": False, "dtype": "bfloat16", **amp}
    return Trainer(model, ToyLoader(), optimizer, amp, {"max_norm": 0.1, "norm_type": 2.0})


def test_training_learns_evaluates_and_writes_its_events(tmp_path):
    results = run(tmp_path, "train.max_iter=40")

    assert results["bbox"] == {"AP": 50.0, "images": 3.0}
    rows = metrics(tmp_path)
    losses = [row["total_loss"] for row in rows if "total_loss" in row]
    assert len(losses) == 40 and losses[-1] < losses[0] / 2
    assert losses[0] == pytest.approx(rows[0]["loss_ce"] + rows[0]["loss_bbox"])
    assert all({"data_time", "grad_norm"} <= row.keys() for row in rows[:40])
    milestone = 34  # 10 / 12 of 40, rounded up
    assert [row["lr"] for row in rows[:40]] == pytest.approx(
        [0.01] * milestone + [0.001] * (40 - milestone)
    )
    assert rows[-1]["bbox/AP"] == 50.0 and rows[-1]["iteration"] == 40
    assert list(tmp_path.glob("events.out.tfevents.*"))


def test_the_gradients_are_clipped_by_the_norm_of_all():
    model = ToyModel()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    trainer = make_trainer(model)

    trainer.train(0, 1)

    # The step of plain gradient descent at rate 1 is the clipped gradient.
    steps = [old - new.detach() for old, new in zip(before, model.parameters())]
    assert trainer.storage.latest()["grad_norm"][0] > 0.1
    assert float(torch.cat([x.flatten() for x in steps]).norm()) == pytest.approx(0.1, rel=1e-4)


def test_bfloat16_is_used_in_the_forward_pass_and_learns(tmp_path):
    model, dtypes = ToyModel(), set()
    model.head.register_forward_hook(lambda *x: dtypes.add(x[-1].dtype))

    make_trainer(model, enabled=True).train(0, 3)

    assert dtypes == {torch.bfloat16}
    run(tmp_path, "train.amp.enabled=true", "train.max_iter=40")
    rows = metrics(tmp_path)
    assert rows[39]["total_loss"] < rows[0]["total_loss"] / 2


@pytest.mark.parametrize(("dtype", "words"), [("float16", "needs a GPU"), ("bf16", "one of")])
def test_a_precision_that_the_device_has_not_is_refused(dtype, words):
    with pytest.raises(ConfigError, match=words):
        make_trainer(ToyModel(), enabled=True, dtype=dtype)


def test_a_device_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="train.device=cuda:99 cannot be used"):
        run(tmp_path, "train.device=cuda:99")


def test_the_state_of_a_disabled_scaler_loads_into_an_enabled_one():
    state = make_trainer(ToyModel()).state_dict()
    trainer = make_trainer(ToyModel())
    trainer.grad_scaler = torch.amp.GradScaler("cpu", init_scale=8.0)

    trainer.load_state_dict(state)

    assert state["grad_scaler"] == {}
    assert trainer.grad_scaler.get_scale() == 8.0
    trainer.load_state_dict(
        {**state, "grad_scaler": {**trainer.grad_scaler.state_dict(), "scale": 2.0}}
    )
    assert trainer.grad_scaler.get_scale() == 2.0


# Iteration 11 is the last, where the hooks could take the failure for the end of the run.
@pytest.mark.parametrize("iteration", [5, 11])
def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_last_good_checkpoint(
    tmp_path, iteration
):
    with pytest.raises(TrainingError, match=f"^loss_bbox is nan at iteration={iteration}") as error:
        run(tmp_path, f"model.poison={iteration}")

    last = (tmp_path / "last_checkpoint").read_text()
    assert f"the last good checkpoint is {tmp_path / last}, from which" in str(error.value)
    assert last == f"model_{iteration // 4 * 4 - 1:07}.pth"
    assert all(value.isfinite().all() for value in weights(tmp_path / last).values())
    assert {path.name for path in tmp_path.glob("model_*.pth")} == {
        f"model_{i:07}.pth" for i in range(3, iteration, 4)
    }
    losses = {row["iteration"]: row.get("total_loss") for row in metrics(tmp_path)}
    assert losses.pop(iteration) is None
    assert list(losses) == list(range(iteration)) and None not in losses.values()


def test_a_run_does_not_go_on_from_weights_alone(tmp_path):
    torch.save({"model": ToyModel().state_dict()}, tmp_path / "model_0000007.pth")
    (tmp_path / "last_checkpoint").write_text("model_0000007.pth")
    with pytest.raises(CheckpointError, match="0000007.pth has weights, but no state of a run"):
        run(tmp_path, resume=True)


def test_the_last_checkpoints_are_kept_over_a_resumption(tmp_path):
    settings = ["train.checkpointer.period=1", "train.checkpointer.max_to_keep=2"]
    run(tmp_path, *settings, "train.max_iter=3")
    run(tmp_path, *settings, "train.max_iter=6", resume=True)
    names = sorted(path.name for path in tmp_path.glob("model_0*"))
    kept = ["model_0000004.pth", "model_0000005.pth"]
    assert names == sorted([*kept, *(f"{name}.sha256" for name in kept)])


def test_the_best_checkpoint_is_kept_over_a_resumption(tmp_path):
    settings = ["train.eval_period=2"]
    # Evaluated at 2, at 4 and at the end. A run that is resumed to go on for longer is evaluated
    # where it was resumed, as the longer run would have been, at 8, at 10 and at the end.
    run(tmp_path, *settings, "train.max_iter=6", "dataloader.evaluator.aps=[3.0,7.0,5.0]")
    best = weights(tmp_path / "model_best.pth")
    assert json.loads((tmp_path / "model_best.json").read_text()) == {
        "bbox/AP": 7.0,
        "iteration": 3,
    }
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"

    run(tmp_path, *settings, "dataloader.evaluator.aps=[6.0,6.5,5.0,4.0]", resume=True)
    for key, value in weights(tmp_path / "model_best.pth").items():
        torch.testing.assert_close(value, best[key], rtol=0, atol=0)

    aps = "dataloader.evaluator.aps=[5.0,8.0]"  # of 12 and of the end
    run(tmp_path, *settings, "train.max_iter=14", aps, resume=True)
    assert json.loads((tmp_path / "model_best.json").read_text()) == {
        "bbox/AP": 8.0,
        "iteration": 14,
    }


def test_a_fresh_run_does_not_go_on_from_what_lies_in_its_folder(tmp_path):
    run(tmp_path, "train.max_iter=2", "dataloader.evaluator.aps=[9.0]")
    run(tmp_path, "train.max_iter=3", "dataloader.evaluator.aps=[1.0]")
    rows = metrics(tmp_path)
    assert [row["iteration"] for row in rows if "total_loss" in row] == [0, 1, 2]
    assert json.loads((tmp_path / "model_best.json").read_text())["bbox/AP"] == 1.0
    assert (tmp_path / "metrics.json.previous").is_file()
    with pytest.raises(TrainingError, match="there is no checkpoint yet"):
        run(tmp_path, "model.poison=0")
    assert not (tmp_path / "last_checkpoint").exists()  # that was of another run


def test_a_trained_model_evaluates_by_file_and_by_folder(tmp_path):
    run(tmp_path, "train.max_iter=2")
    file = f"train.init_checkpoint={tmp_path / 'model_final.pth'}"
    expected = {"AP": 50.0, "images": 3.0}
    assert evaluate(config(tmp_path, file))["bbox"] == expected
    assert evaluate(config(tmp_path), resume=True)["bbox"] == expected
    with pytest.raises(ConfigError, match="--eval-only needs a trained model"):
        evaluate(config(tmp_path / "empty"))
