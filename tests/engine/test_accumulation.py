"""Gradient accumulation: K batches of b images give the gradients of one batch of K b."""

from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate
from detectron2.structures import Boxes, Instances
from test_engine_training import metrics, run, weights
from torch.testing import assert_close

from interruption import finish, pair
from samdetr.engine import Trainer, load_config
from samdetr.engine.launch import wrap
from toy import ToyLoader, ToyModel

CONFIGS = Path(__file__).parents[2] / "configs/mini"
COUNTS = (3, 0, 0, 0, 1, 2)  # objects of each image: the batch in the middle has none


def images(counts=COUNTS):
    """Images of one size, since the padding of an image depends on its batch."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for count in counts:
        instances = Instances((64, 64))
        corners = torch.rand(count, 2, generator=generator) * 30
        sizes = torch.rand(count, 2, generator=generator) * 20 + 5
        instances.gt_boxes = Boxes(torch.cat([corners, corners + sizes], dim=1))
        instances.gt_classes = torch.randint(10, (count,), generator=generator)
        image = torch.rand(3, 64, 64, generator=generator) * 255
        made.append({"image": image, "instances": instances})
    return made


def gradients(model, batches):
    """The gradients and summed losses of one step."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    amp = {"enabled": False, "dtype": "bfloat16"}
    clip = {"max_norm": float("inf")}
    trainer = Trainer(model, [], optimizer, amp, clip, accumulate=len(batches))
    trainer.iter = 0
    optimizer.zero_grad()
    names, losses = trainer._backward(batches)
    found = {name.removeprefix("module."): x.grad for name, x in model.named_parameters()}
    return found, dict(zip(names, losses))


def detector(name):
    torch.manual_seed(1)
    # Without dropout, and denoising queries without noise: both draw other numbers.
    model = instantiate(load_config(str(CONFIGS / f"{name}.py")).model).eval()
    model.criterion.train()
    model.training = True
    for key in ("label_noise", "box_noise"):
        setattr(model.denoising, key, 0.0)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sam_detr_pp_smca_dn", "detr_softmax"])
@pytest.mark.parametrize("size", [2, 3])
def test_accumulated_gradients_are_those_of_one_batch(name, size):
    model, records = detector(name), images()
    expected, one = gradients(model, [records])
    batches = [records[i : i + size] for i in range(0, len(records), size)]
    found, several = gradients(model, batches)
    assert_close(several, one, rtol=1e-5, atol=1e-6)
    scale = max(x.abs().max() for x in expected.values())
    assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(scale))


def of_two_processes(rank, folder):
    """The gradients of two batches of one image in each process."""
    model, mine = detector("sam_detr_smca"), images((3, 1, 0, 2))[2 * rank :][:2]
    found, _ = gradients(wrap(model), [mine[:1], mine[1:]])
    torch.save(found, folder / f"{rank}.pth")


@pytest.mark.slow
def test_accumulated_gradients_are_exchanged_between_processes(tmp_path):
    expected, _ = gradients(detector("sam_detr_smca"), [images((3, 1, 0, 2))])
    assert finish(*pair(of_two_processes, tmp_path)) == [0, 0]
    scale = max(x.abs().max() for x in expected.values())
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pth")
        assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(scale))


def test_the_gradients_of_any_other_model_are_averaged():
    torch.manual_seed(0)
    model, batches = ToyModel(), [x for x, _ in zip(ToyLoader(epoch=2), range(2))]
    expected, _ = gradients(model, [batches[0] + batches[1]])
    found, _ = gradients(model, batches)
    assert_close(found, expected)


def test_a_run_that_accumulates_reads_as_many_batches(tmp_path):
    overrides = ("dataloader.train.epoch=8", "train.max_iter=4")
    run(tmp_path / "one", *overrides, "dataloader.train.batch_size=4")
    run(tmp_path / "two", *overrides, "dataloader.train.batch_size=2", "train.accumulate=2")
    losses = [[x["total_loss"] for x in metrics(tmp_path / name)[:4]] for name in ("one", "two")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    one, two = (weights(tmp_path / name / "model_final.pth") for name in ("one", "two"))
    assert_close(two, one, rtol=1e-4, atol=1e-5)
