"""Measuring turn about, memory, profiles and loading, with a clock and memory that are known."""

import json
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from omegaconf import OmegaConf
from PIL import Image
from torch import nn

from benchmark import memory, profiling, run
from benchmark.cases import Setting, TrainingStep, count_classes, make_batch
from benchmark.loading import Loading, made_ahead, photographs, write_photographs
from benchmark.timing import Contestant, measure, summarize
from conftest import make_model
from samdetr.engine import load_config

ROOT = Path(__file__).parents[2]
MINI = ROOT / "configs/mini/sam_detr_smca.py"
CONVNET = ROOT / "configs/coco/faster_rcnn_r50_fpn_12ep.py"
TOY = ROOT / "tests/toy_config.py"
MEGA = 2**20
NUMBERS = 64 * MEGA // 4  # float32 in 64 MiB: more than an allocator keeps for later


class FakeClock:
    """Seconds that pass when told."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def spend(self, seconds):
        self.now += seconds


class Spending(nn.Module):
    """Lets time pass before and behind its parts."""

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
    """A product of two numbers arrays of 64 MiB, both of which its gradient needs."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(NUMBERS))

    def forward(self):
        return (self.weight * torch.ones(NUMBERS)).sum()


def same(model):
    """A baseline for `--against`."""
    return model


def test_contestants_run_once_a_round_and_take_turns_at_being_first():
    clock, order = FakeClock(), []
    contestants = [
        Contestant(name, lambda name=name: order.append(name), lambda: order.append("ready"))
        for name in "abc"
    ]
    measure(contestants, repeat=3, warmup=1, clock=clock)
    assert order[::2] == ["ready"] * 12
    assert "".join(order[1::2]) == "abcbcacababc"


def test_only_the_run_of_rounds_that_count_is_timed():
    clock = FakeClock()
    spent = iter([100.0, 1.0, 2.0])
    contestant = Contestant("a", lambda: clock.spend(next(spent)), lambda: clock.spend(1000.0))
    assert measure([contestant], repeat=2, warmup=1, clock=clock) == {"a": [1.0, 2.0]}


def test_a_ratio_is_the_median_over_rounds_not_the_ratio_of_medians():
    summary = summarize({"first": [1.0, 10.0, 2.0], "other": [3.0, 20.0, 1.0]})
    assert summary["first"] == (2.0, 1.0, 10.0, 1.0)
    assert summary["other"] == (3.0, 1.0, 20.0, 2.0)  # of 3, 2 and 0.5


@pytest.mark.parametrize(
    ("names", "repeat", "message"),
    [("", 1, "one or more"), ("aa", 1, "different"), ("a", 0, "is 0")],
)
def test_nothing_to_measure_is_an_error(names, repeat, message):
    with pytest.raises(ValueError, match=message):
        measure([Contestant(name, list) for name in names], repeat)


def hold_two():
    first = torch.ones(NUMBERS)
    first = first + 1  # two at a time
    return first.sum()


@pytest.mark.slow
@pytest.mark.skipif(not memory.STATUS.exists(), reason="Linux tells the memory of a process")
def test_the_peak_of_memory_is_what_was_held_at_once():
    # In a new process, as the tool does it: a used one may have such memory free already.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        before, peak = pool.submit(memory.peak_of, hold_two).result()
    assert 2 * 64 * MEGA <= peak - before < 2.5 * 64 * MEGA


def test_saved_bytes_are_those_of_activations_each_once():
    model = Keeping()
    assert memory.saved_bytes(model, model) == 64 * MEGA  # of the array of ones, not the weight
    x = torch.randn(10, requires_grad=True)
    assert memory.saved_bytes(lambda: (x.exp() * x.exp()).sum(), nn.Identity()) == 2 * 40


def test_parts_are_timed_without_the_parts_inside():
    clock = FakeClock()
    aligner = Spending(clock, 4.0, pooler=Spending(clock, 8.0))
    layers = [Spending(clock, 2.0, aligner=aligner), Spending(clock, 2.0)]
    model = Spending(clock, 0.5, backbone=Spending(clock, 1.0))
    model.decoder = nn.Sequential()
    model.decoder.layers = nn.Sequential(*layers)
    timer = profiling.PartTimer(model, clock)

    timer.run(lambda: model(torch.ones(1)))

    assert timer.seconds == {
        "other": 1.0,
        "backbone": 2.0,
        "decoder": 8.0,
        "decoder.aligner": 8.0,
        "decoder.aligner.pooler": 16.0,
    }
    assert sum(timer.seconds.values()) == clock.now
    assert not any(x._forward_hooks or x._forward_pre_hooks for x in model.modules())


def test_every_seam_of_the_model_is_a_part_of_its_own():
    parts = {part for part, _ in profiling.outermost(make_model("sam_detr_smca"))}
    assert parts > {
        *("other", "backbone", "neck", "encoder", "encoder.attention", "queries", "denoising"),
        *(f"decoder.{x}" for x in ("position", "self_attention", "cross_attention", "heads")),
        *(f"decoder.aligner.{x}" for x in ("resampler", "pooler", "content_gate", "position_gate")),
        *("decoder.cross_attention.prior", "criterion", "criterion.matcher"),
    }


class Two(nn.Module):
    """Two parts whose backward takes a known operator each."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Tanh()
        self.neck = nn.Sigmoid()
        self.scale = nn.Parameter(torch.ones(1000))

    def forward(self, batch):
        return {"loss": self.neck(self.backbone(self.scale) * 2).sum()}


def test_backward_is_shared_out_by_the_part_of_the_forward_operator():
    cfg = load_config(str(TOY))
    work = TrainingStep(Two(), cfg, [], Setting("step"))
    recorded = profiling.record(work)
    seconds = profiling.backward_by_part(recorded)
    backward = Counter()
    for event in recorded.events():
        if event.name.startswith("autograd::engine::evaluate_function"):
            backward[event.name.rpartition(" ")[2]] += event.cpu_time_total * profiling.MICRO
    assert seconds["backbone"] == pytest.approx(backward.pop("TanhBackward0"))
    assert seconds["neck"] == pytest.approx(backward.pop("SigmoidBackward0"))
    assert seconds["other"] == pytest.approx(sum(backward.values()))
    assert "aten::tanh" in [x.name for x in profiling.top_operators(recorded, count=100)]


def test_inputs_are_the_same_for_all_and_inside_the_image():
    setting = Setting("step", (40, 60), batch=2, boxes=5)
    first, again = make_batch(setting, 3), make_batch(setting, 3)
    for one, other in zip(first, again):
        torch.testing.assert_close(one["image"], other["image"])
        torch.testing.assert_close(
            one["instances"].gt_boxes.tensor, other["instances"].gt_boxes.tensor
        )
        assert one["image"].shape == (3, 40, 60) and len(one["instances"]) == 5
        corners = one["instances"].gt_boxes.tensor
        assert (corners >= 0).all() and (corners <= torch.tensor([60, 40, 60, 40])).all()
        assert set(one["instances"].gt_classes.tolist()) <= {0, 1, 2}


def test_all_contestants_start_from_the_same_weights():
    cases = run.contestants([str(MINI)], against=["test_benchmark:same"])
    ours, theirs = (case.build(Setting())[0].state_dict() for case in cases)
    for name, weight in ours.items():
        torch.testing.assert_close(weight, theirs[name], rtol=0, atol=0)


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


@pytest.mark.parametrize(("config", "count"), [(MINI, 10), (CONVNET, 80), (TOY, 4)])
def test_classes_are_those_of_the_config(config, count):
    assert count_classes(load_config(str(config))) == count


def test_photographs_are_jpegs_with_boxes_inside_and_are_forgotten(tmp_path):
    file, folder = write_photographs(tmp_path, count=2, num_classes=3)
    image = np.asarray(Image.open(Path(folder) / "000001.jpg"), dtype=float)
    assert image.shape == (480, 640, 3)
    assert image.std() > 20  # large shapes
    assert 1 < np.abs(np.diff(image, axis=1)).mean() < 20  # grain, but not white noise
    for annotation in json.loads(Path(file).read_text())["annotations"]:
        x, y, width, height = annotation["bbox"]
        assert 0 <= x <= x + width <= 640 and 0 <= y <= y + height <= 480
        assert 1 <= annotation["category_id"] <= 3
    with photographs(count=2, num_classes=3) as name:
        assert len(DatasetCatalog.get(name)) == 2
    assert name not in DatasetCatalog


def test_what_workers_made_ahead_is_used_up_before_a_turn():
    loading = Loading(load_config(str(TOY)).dataloader.train, batches=2, ahead=3)
    loading.iterator = iter([[0]] * 3 + [[0] * 4] * 2 + [[0] * 100])
    loading.prepare()
    loading()
    assert loading.images == 8


@pytest.mark.parametrize(
    ("workers", "grouped", "ahead"),
    [(0, True, 0), (3, True, 2), (3, False, 6)],
)
def test_workers_make_two_images_or_two_batches_ahead(workers, grouped, ahead):
    loader = dict(num_workers=workers, aspect_ratio_grouping=grouped, total_batch_size=4)
    assert made_ahead(OmegaConf.create(loader)) == ahead
