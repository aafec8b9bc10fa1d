"""Training and evaluation of what a config describes."""

from __future__ import annotations

import argparse
import logging
import tempfile
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from detectron2.config import instantiate
from detectron2.engine import default_setup, hooks
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig
from torch import nn
from torch.utils.data import DataLoader

from ..checkpoint import Checkpointer, CheckpointError, InitialCheckpointer, MissingCheckpointError
from ..data import DataError
from ..randomness import seed_all, use_deterministic_algorithms
from ..stopping import StopRequest, outlive_signals
from .arguments import configure
from .building import build_and_try
from .config import ConfigError
from .faults import explained
from .hooks import BestCheckpointer, PeriodicCheckpointer, WeightsCheckpointer
from .launch import share_cores, wrap
from .memory import keep_freed_memory
from .optimizer import build_optimizer
from .records import Records
from .resuming import CatchUp, Seed
from .settings import check_evaluator
from .trainer import Trainer


def main(args: argparse.Namespace) -> dict[str, Any]:
    """Train or, with `args.eval_only`, evaluate, in this process of possibly several.

    Returns:
        The evaluator's results; nothing in other processes than the first.

    Raises:
        ConfigError, CheckpointError, DataError: if the config, a checkpoint or the data are at
            fault.
    """
    cfg = configure(args)
    make_output_folder(cfg.train.output_dir)
    setup_logger(cfg.train.output_dir, distributed_rank=comm.get_rank(), name="samdetr")
    default_setup(cfg, args)
    share_cores()
    if torch.device(cfg.train.device).type == "cpu":
        keep_freed_memory()
    results = (evaluate if args.eval_only else train)(cfg, args.resume)
    if dist.is_initialized():
        dist.destroy_process_group()
    return results


def make_output_folder(path: str) -> None:
    """Make `train.output_dir`.

    Raises:
        ConfigError: if it cannot be written into.
    """
    try:
        PathManager.mkdirs(path)
        if "://" not in path:
            tempfile.TemporaryFile(dir=path).close()
    # What knows an address alone cannot write; names may be none for this system.
    except (OSError, NotImplementedError, ValueError) as error:
        cause = getattr(error, "strerror", "") or str(error) or "nobody can write there"
        raise ConfigError(f"train.output_dir={path} cannot be written into: {cause}") from error


def build_model(cfg: DictConfig) -> nn.Module:
    """The config's model on its device.

    Raises:
        ConfigError: if the device is a GPU and there is none, if the model cannot be what its keys
            say, or if it has no part that `train.compile` names.
    """
    if torch.device(cfg.train.device).type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"train.device={cfg.train.device}, but torch finds no GPU: set it to cpu")
    model = build_and_try(cfg.model, "model")
    compile_parts(model, cfg.train.get("compile", []))  # older configs have none
    return model.to(cfg.train.device)


def compile_parts(model: nn.Module, names: Sequence[str], **options: Any) -> None:
    """Have submodules compiled when they are first called, once for images of all sizes.

    Args:
        model: whose parameters keep their names.
        names: of submodules, such as "backbone"; "." is the whole model.
        options: for `torch.compile`.

    Raises:
        ConfigError: if the model has no such submodule.
    """
    for name in names:
        try:
            part = model.get_submodule(name.removeprefix("."))
        except AttributeError as error:
            parts = ", ".join(name for name, _ in model.named_children())
            raise ConfigError(
                f"to compile {name!r}: the model has no such part, but {parts}"
            ) from error
        part.compile(dynamic=True, **options)


class Evaluation:
    """The config's evaluator on its test loader, both made at once: what lacks is an early error.

    Args:
        cfg: the whole config.
        model: as it is without DDP, whose exchange of buffers would wait for processes that have
            fewer images.

    Raises:
        ConfigError: if the evaluator is none.
        DataError: if there are no images.
    """

    def __init__(self, cfg: DictConfig, model: nn.Module):
        self.model = model
        self.loader = instantiate(cfg.dataloader.test)
        if not any(comm.all_gather(len(self.loader))):
            raise DataError("dataloader.test has no images, so that nothing can be evaluated")
        if isinstance(self.loader, DataLoader):
            self.loader.worker_init_fn = outlive_signals
        self.evaluator = instantiate(cfg.dataloader.evaluator)
        check_evaluator(self.evaluator)
        self.results: dict[str, Any] = {}

    def __call__(self) -> dict[str, Any]:
        """Evaluate and print; returns task -> metric -> value, nothing but in the first process."""
        self.results = inference_on_dataset(self.model, self.loader, self.evaluator)
        if comm.is_main_process():
            print_csv_format(self.results)
        return self.results


def evaluate(cfg: DictConfig, resume: bool = False) -> dict[str, Any]:
    """Evaluate `train.init_checkpoint`, or with `resume` the last checkpoint of the output folder.

    Raises:
        ConfigError: if there is no checkpoint to evaluate.
        CheckpointError: if the checkpoint does not fill the model.
    """
    model = build_model(cfg)
    evaluation = Evaluation(cfg, model)
    checkpointer = Checkpointer(model, cfg.train.output_dir)
    if resume and checkpointer.has_checkpoint():
        checkpointer.load(checkpointer.newest())
    elif cfg.train.init_checkpoint:
        checkpointer.load(cfg.train.init_checkpoint)
    else:
        raise ConfigError("--eval-only needs a trained model: train.init_checkpoint=PATH")
    with explained(checkpointer, resumable=False):
        return evaluation()


def train(cfg: DictConfig, resume: bool = False) -> dict[str, Any]:
    """Train to `train.max_iter`, evaluating on the way and at the end.

    Args:
        cfg: the whole config; a `train.seed` of -1 becomes the one drawn.
        resume: go on from the last checkpoint of the output folder, if it has one, as if the run
            had not been interrupted.

    Returns:
        The results of the last evaluation.

    Raises:
        Stopped: if the run is told to stop by a signal of `samdetr.stopping`, after it has saved.
        TrainingError: if something fails that is known to; it tells what `resume` can go on from.
    """
    settle_randomness(cfg)
    model = build_model(cfg)
    trainer = Trainer(
        wrap(model, **cfg.train.ddp),
        [],
        build_optimizer(cfg.optimizer, model),
        amp=cfg.train.amp,
        clip_grad=cfg.train.clip_grad,
        metrics_period=cfg.train.log_period,
        skip_nonfinite=cfg.train.get("skip_nonfinite", 0),  # older configs have none
    )
    evaluation = Evaluation(cfg, model)  # reads data: what can fail without has come before
    checkpointer = Checkpointer(model, cfg.train.output_dir, trainer=trainer)
    seed = Seed(cfg.train.seed)
    with StopRequest() as stop:
        trainer.register_hooks([seed])
        register_hooks(trainer, cfg, checkpointer, evaluation, stop)
        start_iter = restore(trainer, cfg, checkpointer, resume)
        cfg.train.seed = seed.seed
        trainer.reset_data_loader(lambda: train_loader(cfg, start_iter))
        with explained(checkpointer):
            trainer.train(start_iter, cfg.train.max_iter)
    return evaluation.results


def settle_randomness(cfg: DictConfig) -> None:
    """Draw the seed if there is none, and make the initial weights a function of it."""
    if cfg.train.seed < 0:
        cfg.train.seed = comm.shared_random_seed()
    logging.getLogger(__name__).info("train.seed=%d", cfg.train.seed)
    seed_all(cfg.train.seed)
    if cfg.train.get("deterministic", False):  # older configs have none
        use_deterministic_algorithms()


def register_hooks(
    trainer: Trainer,
    cfg: DictConfig,
    checkpointer: Checkpointer,
    evaluation: Evaluation,
    stop: StopRequest,
) -> None:
    """Schedule, checkpoints, evaluation and records."""
    settings = cfg.train
    weights = WeightsCheckpointer(checkpointer.model, settings.output_dir)
    best = BestCheckpointer(settings.eval_period, weights, settings.best_metric)
    after_saving = [
        hooks.EvalHook(settings.eval_period, evaluation),
        *([best] if comm.is_main_process() else []),
        Records(settings.output_dir, settings.log_period),
    ]
    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            hooks.LRScheduler(scheduler=instantiate(cfg.lr_multiplier)),
            # Before the evaluation, which may fail.
            PeriodicCheckpointer(checkpointer, stop, **settings.checkpointer),
            *after_saving,
            CatchUp(after_saving),
        ]
    )


def train_loader(cfg: DictConfig, start_iter: int) -> Iterable[list[dict[str, Any]]]:
    """The config's batches from an iteration on."""
    loader: Iterable[list[dict[str, Any]]] = instantiate(cfg.dataloader.train)
    if hasattr(loader, "seek"):
        loader.seek(start_iter)
    elif start_iter > 0:
        logging.getLogger(__name__).warning(
            "dataloader.train (%s) has no `seek`, as samdetr.data.build_train_loader's has: its "
            "images come in another order than without the interruption",
            type(loader).__name__,
        )
    return loader


def restore(trainer: Trainer, cfg: DictConfig, checkpointer: Checkpointer, resume: bool) -> int:
    """Load what the run starts from, and return the iteration it starts at.

    Raises:
        CheckpointError: if the checkpoint is not there or does not fit.
        OSError: if no checkpoint to resume is whole.
    """
    settings = cfg.train
    start_iter = 0
    if resume and checkpointer.has_checkpoint():
        trainer.iter = -1  # of no checkpoint
        checkpointer.load(path := checkpointer.newest())
        start_iter = trainer.iter + 1
        if start_iter == 0:
            raise CheckpointError(
                f"{path} has weights, but no state of a run that --resume could go on from: "
                f"without it, train.init_checkpoint={path} begins with the weights"
            )
    else:
        initialize(checkpointer.model, settings.init_checkpoint)
    if len(set(comm.all_gather(start_iter))) > 1:
        raise CheckpointError(
            f"{settings.output_dir} differs between machines: --resume needs a shared folder"
        )
    return start_iter


def initialize(model: nn.Module, path: str) -> None:
    """Fill the model, or its backbone alone, from `train.init_checkpoint`; "" leaves it random."""
    try:
        InitialCheckpointer(model).load(path)
    except MissingCheckpointError as error:
        raise MissingCheckpointError(
            f"{error}: train.init_checkpoint=PATH names another file, train.init_checkpoint='' "
            "starts from random weights"
        ) from error
