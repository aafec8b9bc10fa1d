"""A training step lets the host wait for the device once, for the costs of the matching."""

import pytest
import torch
from detectron2.config import LazyCall as L
from torch.profiler import ProfilerActivity, profile

from conftest import make_batch, make_model
from host_reads import HostReads
from samdetr.engine import Trainer
from samdetr.modeling import (
    DeformableSelfAttention,
    Denoising,
    HungarianMatcher,
    RoIAlignPooler,
    SeparablePooler,
)

pytestmark = pytest.mark.slow

DENOISING = L(Denoising)(num_classes="${model.num_classes}", dim="${model.neck.dim}")
DEFORMABLE = L(DeformableSelfAttention)(dim=64, num_heads=8, num_levels=1, num_points=4)
MODELS = {
    "detr": dict(variant="detr"),
    "sam_detr": dict(variant="sam_detr", decoder__layer__aligner__pooler=L(RoIAlignPooler)(size=7)),
    "sam_detr_smca_dn": dict(
        variant="sam_detr_smca",
        denoising=DENOISING,
        decoder__layer__aligner__pooler=L(SeparablePooler)(size=7),
    ),
    "deformable": dict(
        variant="sam_detr",
        encoder__layer__attention=DEFORMABLE,
        decoder__layer__aligner__pooler=L(RoIAlignPooler)(size=7),
    ),
}
# Of tensors that a loader gives, or that have been copied to the host already.
ON_THE_HOST = {
    ("image_list.py", "item"),  # sizes of the images
    ("meta_arch.py", "index by a mask"),  # classes out of range in the ground truth
    ("deformable_cpu.py", "upload"),  # a backend for the CPU alone
    ("structures.py", "cpu"),  # boxes of the ground truth
    ("matcher.py", "numpy"),  # costs
    ("train_loop.py", "cpu"),  # losses
    ("train_loop.py", "item"),
    ("trainer.py", "item"),  # norms of the gradients
    ("wrappers.py", "upload"),  # Detectron2 asks for the batch where it already is
}


class Batches:
    """The same batch for ever."""

    def __init__(self):
        self.batch = make_batch(counts=(3, 1))

    def __iter__(self):
        while True:
            yield self.batch


def make_trainer(model, **settings):
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    amp = {"enabled": False, "dtype": "bfloat16"}
    clip_grad = {"max_norm": 0.1, "norm_type": 2.0}
    return Trainer(model, Batches(), optimizer, amp, clip_grad, **settings)


@pytest.mark.parametrize("name", MODELS)
def test_a_step_waits_once_for_the_costs_and_some_steps_once_for_their_metrics(name):
    trainer = make_trainer(make_model(**MODELS[name]), metrics_period=3)

    with HostReads() as reads:
        trainer.train(0, 6)

    waiting = {key: count for key, count in reads.count.items() if key not in ON_THE_HOST}
    assert waiting == {("matcher.py", "cpu"): 6, ("trainer.py", "cpu"): 2}


@pytest.mark.parametrize("name", MODELS)
def test_no_operator_of_the_backward_pass_reads_a_value(name):
    losses = make_model(**MODELS[name]).train()(make_batch(counts=(3, 1)))

    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        sum(losses.values()).backward()

    names = {event.key for event in profiler.key_averages()}
    assert "aten::mm" in names
    assert not names & {"aten::item", "aten::_local_scalar_dense", "aten::nonzero"}


def test_reads_and_uploads_are_noticed():
    x, device = torch.arange(4.0), torch.device("cpu")
    with HostReads() as reads:
        float(x.sum()), bool((x > 0).all()), x[x > 0], x.cpu(), x.tolist(), x.nonzero()
        x.new_tensor(1.0), torch.tensor(1.0, device=device), x.to(device), x.to(torch.float64)
        x.to(device, non_blocking=True), x[x.long()], x.new_full((), 1.0), torch.tensor(1.0)
    assert {what: count for (_, what), count in reads.count.items()} == {
        "item": 2,
        "index by a mask": 1,
        "cpu": 1,
        "tolist": 1,
        "nonzero": 1,
        "upload": 3,
    }
    assert {file for file, _ in reads.count} == {"test_host_reads.py"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", MODELS)
def test_a_gpu_is_waited_for_only_where_that_is_allowed(name, monkeypatch):
    def allowed(function):
        def waiting(*args):
            torch.cuda.set_sync_debug_mode("default")
            result = function(*args)
            torch.cuda.set_sync_debug_mode("error")
            return result

        return waiting

    monkeypatch.setattr(HungarianMatcher, "to_host", allowed(HungarianMatcher.to_host))
    monkeypatch.setattr(Trainer, "read_metrics", allowed(Trainer.read_metrics))
    trainer = make_trainer(make_model(**MODELS[name]).cuda(), metrics_period=2)
    trainer.train(0, 2)  # what is made once may wait
    try:
        torch.cuda.set_sync_debug_mode("error")
        trainer.train(2, 6)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert trainer.iter == 6
