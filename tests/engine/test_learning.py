"""Every kind of model learns on the small data set; denoising trains where a process has no box."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate
from torch import nn
from torch.testing import assert_close

from conftest import make_batch
from interruption import finish, pair
from samdetr.checkpoint import InitialCheckpointer
from samdetr.data import DetectionMapper, load_detection_dataset
from samdetr.engine import build_optimizer, load_config
from samdetr.engine.launch import wrap

pytestmark = pytest.mark.slow

MINI = Path(__file__).parents[2] / "configs" / "mini"
MODELS = [
    "detr",
    "smca_detr",
    "conditional_detr",
    "dn_detr",
    "deformable_detr",
    "sam_detr_smca",
    "sam_detr_pp_smca_dn",
]
STEPS, BATCHES, IMAGES = 16, 4, 2


@pytest.fixture(scope="module")
def batches() -> list[list[dict]]:
    """Four batches of real training images, to be seen again and again."""
    mapper = DetectionMapper(is_train=True, augmentations=[], image_format="RGB")
    images = [mapper(x) for x in load_detection_dataset("mini_train")[: BATCHES * IMAGES]]
    return [images[i : i + IMAGES] for i in range(0, len(images), IMAGES)]


def step(model: nn.Module, batch: list[dict], optimizer: torch.optim.Optimizer) -> dict:
    losses = model(batch)
    optimizer.zero_grad()
    sum(losses.values()).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 0.5)
    optimizer.step()
    return losses


@pytest.mark.parametrize("name", MODELS)
def test_loss_falls_in_sixteen_steps(name, batches):
    cfg = load_config(str(MINI / f"{name}.py"))
    model = instantiate(cfg.model).train()
    InitialCheckpointer(model).load(cfg.train.init_checkpoint)
    optimizer = build_optimizer(cfg.optimizer, model)

    totals = [
        sum(step(model, batches[i % len(batches)], optimizer).values()).item() for i in range(STEPS)
    ]

    first, last = sum(totals[:BATCHES]), sum(totals[-BATCHES:])  # over the same batches each
    assert last < 0.9 * first


def train_with_an_empty_process(rank: int, folder: Path) -> None:
    """Five steps of a model with denoising, in which the second process has no object at all."""
    torch.manual_seed(0)
    cfg = load_config(str(MINI / "sam_detr_smca_dn.py"))
    plain = instantiate(cfg.model).train()
    model, optimizer = wrap(plain, **cfg.train.ddp), build_optimizer(cfg.optimizer, plain)
    batch = make_batch(counts=[(3, 1), (0, 0)][rank])
    losses = [step(model, batch, optimizer) for _ in range(5)]
    torch.save((losses, plain.state_dict()), folder / f"{rank}.pth")


def test_denoising_trains_where_one_of_two_processes_has_no_box(tmp_path):
    assert finish(*pair(train_with_an_empty_process, tmp_path)) == [0, 0]
    (full, weights), (empty, same) = (torch.load(tmp_path / f"{rank}.pth") for rank in range(2))

    for some, none in zip(full, empty, strict=True):
        assert list(some) == list(none)
        assert all(x.isfinite() for x in [*some.values(), *none.values()])
        assert none["loss_bbox_dn"] == none["loss_giou"] == 0
    assert sum(full[-1].values()) < sum(full[0].values())
    for name, tensor in weights.items():
        assert_close(tensor, same[name])
