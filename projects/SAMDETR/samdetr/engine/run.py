"""Training and evaluation of what a config describes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from detectron2.config import instantiate
from detectron2.engine import default_argument_parser, default_setup, default_writers, hooks
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig
from torch import nn

from ..checkpoint import Checkpointer, CheckpointError, InitialCheckpointer, MissingCheckpointError
from .config import ConfigError, load_config
from .distributed import share_cores, wrap
from .hooks import BestCheckpointer, PeriodicCheckpointer, WeightsCheckpointer, rewind
from .memory import keep_freed_memory
from .optimizer import build_optimizer
from .trainer import Trainer

EPILOG = """
Examples:
  train_net.py --config-file configs/mini/sam_detr_smca.py train.output_dir=output/mini
  train_net.py --config-file configs/coco/sam_detr_r50_smca_12ep.py --num-gpus 8
  train_net.py --config-file output/mini/config.yaml --resume
  train_net.py --config-file output/mini/config.yaml --eval-only \\
      train.init_checkpoint=output/mini/model_best.pth
"""


def argument_parser() -> argparse.ArgumentParser:
    """Detectron2's, with a free port of this machine as the default meeting point."""
    parser = default_argument_parser(EPILOG)
    parser.set_defaults(dist_url="auto")
    return parser


def main(args: argparse.Namespace) -> dict[str, Any]:
    """Train or, with `args.eval_only`, evaluate, in this process of possibly several.

    Returns:
        The evaluator's results; nothing in other processes than the first.
    """
    cfg = load_config(args.config_file, args.opts)
    setup_logger(cfg.train.output_dir, distributed_rank=comm.get_rank(), name="samdetr")
    default_setup(cfg, args)
    share_cores()
    if torch.device(cfg.train.device).type == "cpu":
        keep_freed_memory()
    results = (evaluate if args.eval_only else train)(cfg, args.resume)
    if dist.is_initialized():
        dist.destroy_process_group()
    return results


def build_model(cfg: DictConfig) -> nn.Module:
    """The config's model on its device.

    Raises:
        ConfigError: if the device is a GPU and there is none, or if the model has no part that
            `train.compile` names.
    """
    if torch.device(cfg.train.device).type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"train.device={cfg.train.device}, but torch finds no GPU: set it to cpu")
    model: nn.Module = instantiate(cfg.model)
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
    """

    def __init__(self, cfg: DictConfig, model: nn.Module):
        self.model = model
        self.loader = instantiate(cfg.dataloader.test)
        self.evaluator = instantiate(cfg.dataloader.evaluator)
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
        checkpointer.load(checkpointer.get_checkpoint_file())
    elif cfg.train.init_checkpoint:
        checkpointer.load(cfg.train.init_checkpoint)
    else:
        raise ConfigError("--eval-only needs a trained model: train.init_checkpoint=PATH")
    return evaluation()


def train(cfg: DictConfig, resume: bool = False) -> dict[str, Any]:
    """Train to `train.max_iter`, evaluating on the way and at the end.

    Args:
        cfg: the whole config.
        resume: go on from the last checkpoint of the output folder, if it has one, with optimiser,
            schedule and loss scale.

    Returns:
        The results of the last evaluation.
    """
    model = build_model(cfg)
    evaluation = Evaluation(cfg, model)
    trainer = Trainer(
        wrap(model, **cfg.train.ddp),
        [],
        build_optimizer(cfg.optimizer, model),
        amp=cfg.train.amp,
        clip_grad=cfg.train.clip_grad,
        metrics_period=cfg.train.log_period,
    )
    checkpointer = Checkpointer(model, cfg.train.output_dir, trainer=trainer)
    register_hooks(trainer, cfg, checkpointer, evaluation)
    start_iter = restore(trainer, cfg, checkpointer, resume)
    # Only now: the loader draws the seed of its order, and a resumed run shall not begin it anew.
    trainer.reset_data_loader(lambda: instantiate(cfg.dataloader.train))
    if comm.is_main_process():
        rewind(cfg.train.output_dir, start_iter)
        writers = default_writers(cfg.train.output_dir, cfg.train.max_iter)
        trainer.register_hooks([hooks.PeriodicWriter(writers, cfg.train.log_period)])
    trainer.train(start_iter, cfg.train.max_iter)
    return evaluation.results


def register_hooks(
    trainer: Trainer, cfg: DictConfig, checkpointer: Checkpointer, evaluation: Evaluation
) -> None:
    """Schedule, checkpoints and evaluation; what saves, in the first process alone."""
    settings = cfg.train
    weights = WeightsCheckpointer(checkpointer.model, settings.output_dir)
    last = PeriodicCheckpointer(checkpointer, **settings.checkpointer)
    best = BestCheckpointer(settings.eval_period, weights, settings.best_metric)
    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            hooks.LRScheduler(scheduler=instantiate(cfg.lr_multiplier)),
            last if comm.is_main_process() else None,  # before the evaluation, which may fail
            hooks.EvalHook(settings.eval_period, evaluation),
            best if comm.is_main_process() else None,
        ]
    )


def restore(trainer: Trainer, cfg: DictConfig, checkpointer: Checkpointer, resume: bool) -> int:
    """Load what the run starts from, and return the iteration it starts at.

    Raises:
        CheckpointError: if the checkpoint is not there or does not fit.
    """
    settings = cfg.train
    start_iter = 0
    if resume and checkpointer.has_checkpoint():
        checkpointer.load(checkpointer.get_checkpoint_file())
        start_iter = trainer.iter + 1
    else:
        initialize(checkpointer.model, settings.init_checkpoint)
    if len(set(comm.all_gather(start_iter))) > 1:
        raise CheckpointError(
            f"{settings.output_dir} differs between machines: --resume needs a shared folder"
        )
    if start_iter and settings.seed >= 0:
        seed_all_rng(settings.seed + start_iter + comm.get_rank())
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
