"""Evaluation of a model on the test sets of a config: metrics, losses and pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from detectron2.evaluation import (
    DatasetEvaluator,
    DatasetEvaluators,
    inference_context,
    inference_on_dataset,
    print_csv_format,
)
from detectron2.utils import comm
from omegaconf import DictConfig, ListConfig
from torch import nn
from torch.utils.data import DataLoader

from .data.loader import outlive_signals
from .engine.config import build
from .errors import ConfigError, DataError
from .metadata import metadata_of


class Evaluation:
    """The evaluators of a config on its test sets.

    The metrics of the first test set have their plain names, such as "bbox/AP"; those of others
    begin with the name of the set, as in "night/bbox/AP".

    Args:
        cfg: the whole config.
        model: without DDP, whose exchange of buffers would wait for processes with fewer images.

    Attributes:
        results: of the last evaluation: task -> metric -> value; empty outside the first process.

    Raises:
        ConfigError: if a loader or an evaluator cannot be built, or the model has no `losses` for
            `train.eval_loss`.
        DataError: if there are no images.
    """

    def __init__(self, cfg: DictConfig, model: nn.Module):
        self.model = model
        self.sets = {name: loader_and_evaluator(x, name) for name, x in evaluation_sets(cfg)}
        self.loss = ValidationLoss(cfg, model) if cfg.train.get("eval_loss", False) else None
        if count := cfg.train.get("eval_pictures", 0):
            from .visualize import DetectionPictures  # needs the packages of the extra `draw`

            pictures = DetectionPictures(metadata_of(cfg), cfg.model.get("input_format"), count)
            self.sets[""] = self.sets[""][0], DatasetEvaluators([self.sets[""][1], pictures])
        self.results: dict[str, Any] = {}

    def __call__(self) -> dict[str, Any]:
        """Evaluate, print a table of each test set and return the results."""
        self.results = {}
        for name, (loader, evaluator) in self.sets.items():
            found = inference_on_dataset(self.model, loader, evaluator)
            self.results |= {f"{name}/{task}" if name else task: x for task, x in found.items()}
        if self.loss:
            losses = self.loss()
            self.results |= {"val": losses} if comm.is_main_process() else {}
        if comm.is_main_process():
            print_csv_format(self.results)
        return self.results


def evaluation_sets(cfg: DictConfig) -> Iterator[tuple[str, DictConfig]]:
    """Yield the name and `dataloader` of each test set; the name of the first one is "".

    They are the data sets of `dataloader.test.dataset.names`, if it is a list, and those of
    `dataloader.more_tests`, which maps names to data sets.
    """
    first = cfg.dataloader.test.get("dataset")
    names = first.get("names") if isinstance(first, DictConfig) else None
    names = list(names) if isinstance(names, ListConfig) else [names]
    others = {name: {**first, "names": name} for name in names[1:]}
    others |= cfg.dataloader.get("more_tests") or {}
    for name, dataset in {"": None, **others}.items():
        copy = cfg.copy()  # the references between its parts stay
        if name:
            copy.dataloader.test.dataset = dataset
            if "output_dir" in copy.dataloader.evaluator:
                copy.dataloader.evaluator.output_dir += f"/{name}"
        elif names[0] is not None:
            copy.dataloader.test.dataset.names = names[0]
        yield name, copy.dataloader


def loader_and_evaluator(dataloader: DictConfig, name: str) -> tuple[Any, DatasetEvaluator]:
    """Build the loader and the evaluator of a test set. Raises DataError if it has no images."""
    loader = evaluation_loader(dataloader)
    if not any(comm.all_gather(len(loader))):
        raise DataError(f"{name or 'dataloader.test'} has no images to evaluate on")
    return loader, build(dataloader.evaluator, "dataloader.evaluator")


def evaluation_loader(dataloader: DictConfig) -> Any:
    """Build the loader of a test set, whose workers leave signals to the training."""
    loader = build(dataloader.test, "dataloader.test")
    if isinstance(loader, DataLoader):
        loader.worker_init_fn = outlive_signals
    return loader


class ValidationLoss:
    """Losses of a model on its first test set, averaged over its boxes.

    Args:
        cfg: the whole config. Its test mapper is built with `is_train=True`, which keeps boxes.
        model: has a method `losses`, as `SAMDETR`.

    Raises:
        ConfigError: if the model has no such method.
    """

    def __init__(self, cfg: DictConfig, model: nn.Module):
        if not hasattr(model, "losses"):
            raise ConfigError(f"train.eval_loss needs a SAMDETR, and the model is {type(model)}")
        self.model: Any = model
        first = next(evaluation_sets(cfg))[1]
        first.test.mapper.is_train = True
        self.loader = evaluation_loader(first)

    def __call__(self) -> dict[str, float]:
        """Return the weighted losses by name, and `total_loss`, in all processes."""
        sums, boxes = Counter[str](), 0
        with torch.no_grad(), inference_context(self.model):
            for batch in self.loader:
                count = sum(len(x["instances"]) for x in batch)
                # A loss is divided by the boxes of its batch, or by 1 if there are none.
                losses = self.model.losses(batch).items()
                sums.update({name: max(1, count) * float(loss) for name, loss in losses})
                boxes += count
        total = Counter[str]()
        for part in comm.all_gather(sums):
            total.update(part)
        boxes = max(1, sum(comm.all_gather(boxes)))
        return {name: x / boxes for name, x in {**total, "total_loss": total.total()}.items()}
