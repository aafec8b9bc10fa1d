"""The optimiser's step: metrics read late lose nothing, fused kernels give the same numbers."""

from copy import deepcopy
from itertools import islice
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig
from torch.testing import assert_close

from samdetr.engine import ConfigError, Trainer, build_optimizer
from toy import SteepModel, ToyLoader, ToyModel

OPTIM = Path(__file__).parents[1] / "configs" / "common" / "optim.py"


def make_trainer(model, fused=True, period=1):
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=fused)
    amp = {"enabled": False, "dtype": "bfloat16"}
    clip_grad = {"max_norm": 0.1, "norm_type": 2.0}
    return Trainer(model, ToyLoader(epoch=20), optimizer, amp, clip_grad, metrics_period=period)


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


def test_no_checkpoint_is_made_of_a_failed_iteration():
    trainer = make_trainer(ToyModel(poison=1), period=100)
    trainer.after_step = lambda: trainer.iter == 1 and trainer.state_dict()
    with pytest.raises(FloatingPointError, match="iteration=1"):
        trainer.train(0, 20)
    assert trainer.iter == 1


def test_metrics_are_read_at_once_if_the_optimiser_cannot_leave_out_a_step():
    assert make_trainer(ToyModel(), fused=False, period=5).metrics_period == 1
    assert make_trainer(ToyModel(), period=5).metrics_period == 5
    with pytest.raises(ConfigError, match="metrics_period is 0, must be 1 or more"):
        make_trainer(ToyModel(), period=0)


def test_the_fused_optimiser_of_the_configs_gives_the_numbers_of_a_plain_one():
    models = [ToyModel()]
    models.append(deepcopy(models[0]))
    for model, fused in zip(models, (True, False)):
        config = LazyConfig.load(str(OPTIM)).optimizer
        assert config.fused is True
        config.fused, config.lr = fused, 0.01
        optimizer = build_optimizer(config, model)
        generator = torch.Generator().manual_seed(1)
        for _ in range(20):
            for parameter in model.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            optimizer.step()
    for ours, theirs in zip(*(x.parameters() for x in models)):
        assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


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
