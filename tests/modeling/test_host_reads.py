"""A training step lets the host wait for the device for the costs of the matching alone."""

import pytest
import torch
from detectron2.config import LazyCall as L
from torch.profiler import ProfilerActivity, profile

from conftest import make_batch, make_model
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
def test_no_operator_of_the_backward_pass_reads_a_value(name):
    losses = make_model(**MODELS[name]).train()(make_batch(counts=(3, 1)))

    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        sum(losses.values()).backward()

    names = {event.key for event in profiler.key_averages()}
    assert "aten::mm" in names
    assert not names & {"aten::item", "aten::_local_scalar_dense", "aten::nonzero"}


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
