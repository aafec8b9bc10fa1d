"""The optimiser's step: metrics read late lose nothing, fused kernels give the same numbers."""

import logging
from copy import deepcopy
from itertools import islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from samdetr.engine import ConfigError, Trainer
from toy import SteepModel, ToyLoader, ToyModel, sample


def make_trainer(model, fused=True, period=1, batches=None, skip=0):
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=fused)
    amp = {"enabled": False, "dtype": "bfloat16"}
    clip_grad = {"max_norm": 0.1, "norm_type": 2.0}
    batches = batches or ToyLoader(epoch=20)
    return Trainer(model, batches, optimizer, amp, clip_grad, period, skip)


def history(trainer):
    """Values of every metric but times, by name and iteration."""
    histories = trainer.storage.histories().items()
    return {name: x.values() for name, x in histories if "time" not in name}


def trained(steps, **settings):
    torch.manual_seed(0)
    trainer = make_trainer(ToyModel(), **settings)
    trainer.train(0, steps)
    return trainer


@pytest.mark.parametrize("period", [2, 3, 100])
def test_metrics_read_late_are_those_read_at_once(period):
    expected, trainer = trained(7), trained(7, period=period)
    assert history(trainer) == history(expected)
    assert [i for _, i in history(trainer)["total_loss"]] == list(range(7))
    assert_close(trainer.model.state_dict(), expected.model.state_dict(), rtol=0, atol=0)


def test_metrics_are_read_at_their_period_and_when_training_ends():
    trainer, read = make_trainer(ToyModel(), period=3), []
    trainer._write_metrics = lambda *x, iter: read.append((trainer.iter, iter))
    trainer.train(0, 5)
    assert read == [(2, 0), (2, 1), (2, 2), (4, 3), (4, 4)]


@pytest.mark.parametrize(("kind", "failed"), [(ToyModel, 2), (SteepModel, 0)])
def test_from_a_failed_iteration_on_no_weight_changes_although_it_is_read_later(kind, failed):
    torch.manual_seed(0)
    model = kind(poison=failed)
    before = deepcopy(model.state_dict())

    with pytest.raises(FloatingPointError, match=f"iteration={failed}"):
        make_trainer(model, period=5).train(0, 20)

    expected = trained(failed).model.state_dict() if failed else before
    assert model.calls == 5
    assert_close(model.state_dict(), expected, rtol=0, atol=0)


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("new", [True, False])
def test_a_resumed_run_steps_by_its_own_kernels_from_any_state(old, new):
    whole = trained(8, fused=new)
    first = trained(4, fused=old)
    trainer = make_trainer(deepcopy(first.model), fused=new)
    trainer.load_state_dict(first.state_dict())
    assert [group["fused"] for group in trainer.optimizer.param_groups] == [new]
    trainer.data_loader = islice(ToyLoader(epoch=20), 4, None)
    trainer.train(4, 8)
    for ours, theirs in zip(trainer.model.parameters(), whole.model.parameters()):
        assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


STEPS = 8
BROKEN = {
    "loss": lambda image: image * float("nan"),
    "gradient": lambda image: image * 0 + 1e38,  # squares overflow, in the loss too
}


def batches(broken):
    """Batches of one image each, of which some have no finite loss."""
    images = [sample(i)["image"] for i in range(STEPS)]
    return [[{"image": BROKEN[broken[i]](x) if i in broken else x}] for i, x in enumerate(images)]


@given(
    broken=st.dictionaries(st.integers(0, STEPS - 1), st.sampled_from(sorted(BROKEN)), max_size=5),
    skip=st.integers(0, 5),
    period=st.sampled_from([1, 2, 3, 100]),
    fused=st.booleans(),
)
def test_failed_iterations_change_nothing_until_they_are_too_many(broken, skip, period, fused):
    torch.manual_seed(0)
    model = ToyModel()
    alike = deepcopy(model)
    trainer = make_trainer(model, fused, period, batches(broken), skip)
    last = sorted(broken)[skip] if len(broken) > skip else STEPS
    good = [batch for i, batch in enumerate(batches(broken)) if i < last and i not in broken]

    if last < STEPS:
        with pytest.raises(FloatingPointError, match=rf"loss_ce is \w+, .* at iteration={last},"):
            trainer.train(0, STEPS)
    else:
        trainer.train(0, STEPS)

    assert trainer.skipped == min(len(broken), skip)
    expected = make_trainer(alike, fused, 1, good)
    if good:
        expected.train(0, len(good))
        states = [x.optimizer.state_dict()["state"] for x in (trainer, expected)]
        assert_close(*states, rtol=0, atol=0)
    assert_close(model.state_dict(), alike.state_dict(), rtol=0, atol=0)
    written = {i for _, i in history(trainer).get("total_loss", [])}
    assert written == {i for i in range(last) if i not in broken}


@pytest.mark.parametrize("fused", [True, False])
def test_a_loss_that_is_infinite_and_has_finite_gradients_fails_too(fused):
    model = ToyModel()
    before = deepcopy(model.state_dict())
    losses = model.forward
    model.forward = lambda batch: {**losses(batch), "loss_far": torch.tensor(float("inf"))}
    with pytest.raises(FloatingPointError, match="^loss_far is inf at iteration=0"):
        make_trainer(model, fused, period=3).train(0, 20)
    assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_skipped_iterations_are_logged_and_counted_on_in_a_resumed_run(caplog):
    first = make_trainer(ToyModel(), period=4, batches=batches({0: "loss", 2: "loss"}), skip=3)
    with caplog.at_level(logging.WARNING, logger="samdetr"):
        first.train(0, 4)
    assert (
        "loss_bbox is nan at iteration=0: its step is skipped, number 1 of at most 3" in caplog.text
    )
    assert first.storage.latest()["skipped_iterations"] == (2, 2)

    second = make_trainer(ToyModel(), batches=batches({4: "loss", 6: "loss"})[4:], skip=3)
    second.load_state_dict(first.state_dict())
    with pytest.raises(FloatingPointError, match="iteration=6, and train.skip_nonfinite=3 allows"):
        second.train(4, STEPS)
    assert second.skipped == 3


def test_batches_that_end_before_the_run_are_named():
    trainer = make_trainer(ToyModel(), batches=[[sample(0)], [sample(1)]])
    with pytest.raises(ConfigError, match="dataloader.train ended before iteration=2"):
        trainer.train(0, 3)
