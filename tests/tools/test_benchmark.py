"""Interleaved timing, memory and attribution to parts, with a fake clock and known sizes."""

from pathlib import Path

import pytest
import torch
from torch import nn

from benchmark import memory, run
from benchmark.cases import Setting, TrainingStep, make_batch
from benchmark.parts import OTHER, measure_parts, part_of
from benchmark.timing import Contestant, measure, summarize

ROOT = Path(__file__).parents[2]
MINI = ROOT / "configs/mini/sam_detr_smca.py"
MEGA = 2**20
NUMBERS = 64 * MEGA // 4  # float32 in 64 MiB: more than an allocator keeps for later


class FakeClock:
    """Clock that advances only by `spend`."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def spend(self, seconds):
        self.now += seconds


class Spending(nn.Module):
    """Spends time on the clock before and after its parts."""

    def __init__(self, clock, seconds, **parts):
        super().__init__()
        self.clock, self.seconds = clock, seconds
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        self.clock.spend(self.seconds)
        for part in self.children():
            x = part(x)
        self.clock.spend(self.seconds)
        return x


class Keeping(nn.Module):
    """Product of two 64 MiB tensors, both needed for the gradient."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(NUMBERS))

    def forward(self):
        return (self.weight * torch.ones(NUMBERS)).sum()


def test_contestants_run_once_a_round_and_take_turns_at_being_first():
    clock, order = FakeClock(), []
    contestants = [
        Contestant(name, lambda name=name: order.append(name), lambda: order.append("ready"))
        for name in "abc"
    ]
    measure(contestants, repeat=3, warmup=1, clock=clock)
    assert order[::2] == ["ready"] * 12
    assert "".join(order[1::2]) == "abcbcacababc"


def test_a_ratio_is_the_median_over_rounds_not_the_ratio_of_medians():
    summary = summarize({"first": [1.0, 10.0, 2.0], "other": [3.0, 20.0, 1.0]})
    assert summary["first"] == (2.0, 1.0, 10.0, 1.0)
    assert summary["other"] == (3.0, 1.0, 20.0, 2.0)  # of 3, 2 and 0.5


def test_saved_bytes_are_those_of_activations_each_once():
    model = Keeping()
    assert memory.saved_bytes(model, model) == 64 * MEGA  # of the array of ones, not the weight
    x = torch.randn(10, requires_grad=True)
    assert memory.saved_bytes(lambda: (x.exp() * x.exp()).sum(), nn.Identity()) == 2 * 40


@pytest.mark.parametrize(
    ("module", "part"),
    [
        ("", OTHER),
        ("backbone.res3.0.conv1", "backbone"),
        ("decoder.layers.2.aligner.pooler", "decoder.aligner.pooler"),
        ("decoder.layers.0.norm2", "decoder.norm"),
        ("decoder.layers.1.cross_attention.prior.scale", "decoder.cross_attention.prior"),
        ("criterion.matcher", "criterion.matcher"),
    ],
)
def test_layers_of_a_stack_are_one_part(module, part):
    assert part_of(module) == part


def test_parts_are_timed_without_the_parts_inside():
    clock = FakeClock()
    aligner = Spending(clock, 4.0, pooler=Spending(clock, 8.0))
    layers = [Spending(clock, 2.0, aligner=aligner), Spending(clock, 2.0)]
    model = Spending(clock, 0.5, backbone=Spending(clock, 1.0))
    model.decoder = nn.Sequential()
    model.decoder.layers = nn.Sequential(*layers)

    _, seconds = measure_parts(model, clock, lambda: model(torch.ones(1)))

    assert seconds == {
        "other": 1.0,
        "backbone": 2.0,
        "decoder": 8.0,
        "decoder.aligner": 8.0,
        "decoder.aligner.pooler": 16.0,
    }
    assert sum(seconds.values()) == clock.now
    assert not any(x._forward_hooks or x._forward_pre_hooks for x in model.modules())


def test_steps_leave_gradients_and_optimizer_state_but_the_same_weights():
    model, cfg = run.contestants([str(MINI)])[0].build(Setting("step"))
    before = {name: x.clone() for name, x in model.named_parameters()}
    setting = Setting("step", (32, 48))
    work = TrainingStep(model, cfg, make_batch(setting, 10), setting)
    work()
    assert len(work.optimizer.state) == len(before)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, before[name], rtol=0, atol=0)
        assert parameter.grad is not None
