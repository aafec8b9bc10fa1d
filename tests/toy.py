"""What the tests of the engine train: toys that take milliseconds, and a model that tells."""

import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from torch import nn

from samdetr.data import load_detection_dataset


class ToyModel(nn.Module):
    """Regresses the mean of an image; `num_classes` sizes its head, `poison` breaks its loss."""

    def __init__(self, num_classes=4, dim=8, poison=None):
        super().__init__()
        self.num_classes = num_classes
        self.backbone = nn.Sequential(nn.Linear(3, dim), nn.ReLU())
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, num_classes)
        self.poison = poison
        self.calls = 0

    def forward(self, batched_inputs):
        x = torch.stack([x["image"] for x in batched_inputs]).mean((2, 3))
        y = self.head(self.norm(self.backbone(x)))
        if not self.training:
            return [{"instances": detection(row)} for row in y]
        error = y - x.mean(1, keepdim=True)
        losses = {"loss_ce": error.square().mean(), "loss_bbox": error.abs().mean()}
        if self.calls == self.poison:
            losses["loss_bbox"] = losses["loss_bbox"] * float("nan")
        self.calls += 1
        return losses


class SteepModel(ToyModel):
    """Has a finite loss, 0, whose gradient is not: the square root's at 0."""

    def forward(self, batched_inputs):
        losses = super().forward(batched_inputs)
        return {name: (loss * 0).sqrt() for name, loss in losses.items()}


def detection(scores):
    instances = Instances((4, 4))
    instances.pred_boxes = Boxes(torch.tensor([[0.0, 0.0, 2.0, 2.0]]))
    instances.scores = scores.max()[None]
    instances.pred_classes = scores.argmax()[None]
    return instances


def sample(index):
    generator = torch.Generator().manual_seed(index)
    return {"image": torch.rand(3, 4, 4, generator=generator), "image_id": index}


class ToyLoader:
    """The same images in the same order for any number of processes, which share each batch.

    Args:
        batch_size: over all processes.
        epoch: number of batches, after which the first comes again.
    """

    def __init__(self, batch_size=4, epoch=1):
        self.batch_size = batch_size
        self.epoch = epoch

    def __iter__(self):
        iteration = 0
        while True:
            first = iteration % self.epoch * self.batch_size
            indices = range(first, first + self.batch_size)
            yield [sample(i) for i in indices[comm.get_rank() :: comm.get_world_size()]]
            iteration += 1


class ToyTestLoader:
    """Three images, shared among the processes."""

    def __iter__(self):
        return ([sample(i)] for i in self._indices())

    def __len__(self):
        return len(self._indices())

    def _indices(self):
        return range(3)[comm.get_rank() :: comm.get_world_size()]


class ToyEvaluator(DatasetEvaluator):
    """Gives the values of `aps` one after the other, and the number of images seen."""

    def __init__(self, aps=(50.0,)):
        self.aps = list(aps)

    def reset(self):
        self.images = []

    def process(self, inputs, outputs):
        assert all("instances" in output for output in outputs)
        self.images += [x["image_id"] for x in inputs]

    def evaluate(self):
        images = comm.gather(self.images)
        if not comm.is_main_process():
            return {}
        ap = self.aps.pop(0) if len(self.aps) > 1 else self.aps[0]
        return {"bbox": {"AP": ap, "images": float(len(sum(images, [])))}}


def few(**dataset):
    """The first images of a data set."""
    return load_detection_dataset(**dataset)[:40]
