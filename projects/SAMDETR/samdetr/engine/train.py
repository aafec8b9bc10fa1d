"""Training and evaluation, in the order of Detectron2's `tools/lazyconfig_train_net.py`.

`main` reads the config and calls `train` or `evaluate`, Detectron2's `do_train` and `do_test`. What
differs from that file:

* The seed is drawn if the config has none, and determines weights, images and noise (`Seed`).
* Parts of the model can be compiled (`train.compile`), and a model on a CPU can be distributed.
* `Trainer` runs in bfloat16 on a CPU, accumulates and clips gradients, and stops or skips if a loss
  is not finite. An average of the weights can take their place in all that follows (`EMA`).
* Evaluation runs on the model without DDP, and its loader and evaluator are built before training
  starts, so that missing data is an early error.
* Checkpoints are written atomically, must fit the model, and resume exactly: the data loader seeks
  to the iteration, and `CatchUp` does what an interruption has cut off (docs/reliability.md).
* The checkpoint is written before the evaluation of an iteration, which may fail, and the best
  model is kept. A signal to stop ends the run after a checkpoint.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist
from detectron2.engine import default_setup, hooks
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig, OmegaConf
from torch import nn

from ..checkpoint import Checkpointer, InitialCheckpointer
from ..data import datasets
from ..errors import CheckpointError, ConfigError, MissingCheckpointError
from ..failures import explained
from ..metadata import ClassMetadata
from ..randomness import seed_all, use_deterministic_algorithms
from ..validation import Evaluation
from .config import build, configure, unread_keys
from .ema import EMA
from .hooks import (
    BestCheckpointer,
    CatchUp,
    MetricsWriter,
    PeriodicCheckpointer,
    Seed,
    WeightsCheckpointer,
    has_evaluation,
)
from .launch import StopRequest, share_cores, wrap
from .model import build_model
from .optimizer import build_optimizer
from .schedule import Converged, EarlyStop, scale_learning_rate, use_epochs
from .trainer import Trainer


def evaluate(cfg: DictConfig, resume: bool = False) -> dict[str, Any]:
    """Evaluate `train.init_checkpoint`, or with `resume` the last checkpoint of the output folder.

    Raises:
        ConfigError: if there is no checkpoint to evaluate, or no data to evaluate it on.
        CheckpointError: if the checkpoint does not fit the model.
    """
    if cfg.dataloader.evaluator is None:
        raise ConfigError("there is no data to evaluate on: --val-json FILE --val-images DIR")
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
    """Train to `train.max_iter`, with evaluations on the way and at the end.

    Args:
        cfg: the whole config; a `train.seed` of -1 is replaced by the one drawn.
        resume: continue from the last checkpoint of the output folder, if it has one, as if the run
            had not been interrupted.

    Returns:
        The results of the last evaluation.

    Raises:
        Stopped: after a signal to stop and a checkpoint.
        TrainingError: if a known fault ends the run; names the checkpoint that `resume` can use.
    """
    if unread := unread_keys(cfg):
        text = ", ".join(f"{key} (the nearest is {nearest})" for key, nearest in unread.items())
        logging.getLogger(__name__).warning("Nothing reads these keys of the config: %s", text)
    set_seed(cfg)
    use_epochs(cfg)
    scale_learning_rate(cfg)
    model = build_model(cfg)
    trainer = build_trainer(cfg, model)
    own_hooks: list[hooks.HookBase] = build([*(cfg.train.get("hooks") or [])], "train.hooks")
    result = model  # that is evaluated and saved
    options = dict(cfg.train.get("ema", {}))
    if options.pop("enabled", False):
        own_hooks.append(ema := EMA(model, **options))
        result = ema.average
    # Reads data, so that other errors come first.
    evaluation = Evaluation(cfg, result) if cfg.dataloader.evaluator else None
    kept = {"trainer": trainer, "metadata": ClassMetadata(cfg)}
    checkpointer = Checkpointer(result, cfg.train.output_dir, **kept)
    with StopRequest() as stop:
        seed = Seed(cfg.train.seed)
        after_saving = make_evaluation_hooks(cfg, checkpointer, evaluation)
        trainer.register_hooks(
            [
                seed,
                hooks.IterationTimer(),
                hooks.LRScheduler(scheduler=build(cfg.lr_multiplier, "lr_multiplier")),
                *own_hooks,
                PeriodicCheckpointer(checkpointer, stop, **cfg.train.checkpointer),
                *after_saving,
                CatchUp(after_saving),
            ]
        )
        start_iter = resume_or_load(trainer, cfg, checkpointer, resume)
        if is_finished(cfg, start_iter, after_saving):
            return {}
        cfg.train.seed = seed.seed  # that of the checkpoint, if there is one
        trainer.reset_data_loader(lambda: train_loader(cfg, start_iter * trainer.accumulate))
        check_limits(cfg, model)
        with explained(checkpointer):
            try:
                trainer.train(start_iter, cfg.train.max_iter)
            except Converged:
                checkpointer.save("model_final", iteration=trainer.iter)
    return evaluation.results if evaluation else {}


def build_trainer(cfg: DictConfig, model: nn.Module) -> Trainer:
    """Build the trainer without its data loader, whose first iteration is not known yet."""
    return Trainer(
        wrap(model, **cfg.train.ddp),
        [],
        build_optimizer(cfg.optimizer, model),
        amp=cfg.train.amp,
        clip_grad=cfg.train.clip_grad,
        metrics_period=cfg.train.log_period,
        # Not in configs of older runs, like all that has a default here.
        skip_nonfinite=cfg.train.get("skip_nonfinite", 0),
        accumulate=cfg.train.get("accumulate", 1),
    )


def is_finished(cfg: DictConfig, start_iter: int, after_saving: Sequence[hooks.HookBase]) -> bool:
    """Return whether a resumed run has nothing left to do, which is then logged."""
    max_iter, folder = cfg.train.max_iter, cfg.train.output_dir
    finished = early = any(isinstance(x, EarlyStop) and x.finished for x in after_saving)
    if start_iter == max_iter > 0:  # the evaluation of the last iteration may be missing
        finished |= not cfg.dataloader.evaluator or has_evaluation(folder, start_iter)
    if finished := finished or start_iter > max_iter:
        text = "The run in %s is finished%s: it has trained %d iterations, train.max_iter is %d"
        reason = " by train.early_stop" if early else ""
        logging.getLogger(__name__).info(text, folder, reason, start_iter, max_iter)
    return finished


def main(args: argparse.Namespace) -> dict[str, Any]:
    """Train or, with `args.eval_only`, evaluate, in this process of possibly several.

    Returns:
        The evaluator's results; empty outside the first process.

    Raises:
        ConfigError, CheckpointError, DataError: if the config, a checkpoint or the data are wrong.
    """
    cfg = configure(args)
    white = OmegaConf.select(cfg, "dataloader.train.mapper.white")
    if white is not None and OmegaConf.select(cfg, "dataloader.test.mapper.white") is None:
        OmegaConf.update(cfg, "dataloader.test.mapper.white", white)  # reads as in training
    with logging_to(cfg.train.output_dir):
        # Given the file, Detectron2 logs its content with escape codes if pygments is installed.
        default_setup(cfg, argparse.Namespace(**vars(args) | {"config_file": ""}))
        logging.getLogger(__name__).info("Config file: %s", args.config_file)
        share_cores()
        results = (evaluate if args.eval_only else train)(cfg, args.resume)
    if dist.is_initialized():
        dist.destroy_process_group()
    return results


@contextmanager
def logging_to(folder: str) -> Iterator[None]:
    """Context in which the loggers write to the terminal and to `folder`/log.txt, and to no other.

    Detectron2's `setup_logger`, which `default_setup` calls too, only ever adds handlers.
    """
    loggers = [logging.getLogger(name) for name in ("detectron2", "fvcore", "samdetr")]
    before = [(x.level, x.propagate, x.handlers[:]) for x in loggers]
    setup_logger.cache_clear()  # it ignores a folder that it has seen
    try:
        setup_logger(folder, distributed_rank=comm.get_rank(), name="samdetr")
        yield
    finally:
        for logger, (level, propagate, handlers) in zip(loggers, before):
            logger.level, logger.propagate, logger.handlers = level, propagate, handlers


def set_seed(cfg: DictConfig) -> None:
    """Draw `train.seed` if it is -1, and seed the initial weights with it."""
    if cfg.train.seed < 0:
        cfg.train.seed = comm.shared_random_seed()
    logging.getLogger(__name__).info("train.seed=%d", cfg.train.seed)
    seed_all(cfg.train.seed)
    if cfg.train.get("deterministic", False):  # not in configs of older runs
        use_deterministic_algorithms()


def check_limits(cfg: DictConfig, model: nn.Module) -> None:
    """Warn of images with more boxes than the model has queries, or than it returns."""
    queries = {"model.num_queries": cfg.model.get("num_queries")}
    returned = {"model.detections_per_image": getattr(model, "detections_per_image", None)}
    datasets.check_limits(cfg.dataloader.train.get("dataset", {}), queries)
    if cfg.dataloader.evaluator:
        datasets.check_limits(cfg.dataloader.test.get("dataset", {}), queries | returned)


def make_evaluation_hooks(
    cfg: DictConfig, checkpointer: Checkpointer, evaluation: Evaluation | None
) -> list[hooks.HookBase]:
    """Return the hooks that follow the checkpoint of an iteration: evaluation and metrics."""
    settings = cfg.train
    made: list[hooks.HookBase] = []
    if evaluation:
        kept = {"metadata": ClassMetadata(cfg)}
        weights = WeightsCheckpointer(checkpointer.model, settings.output_dir, **kept)
        made.append(hooks.EvalHook(settings.eval_period, evaluation))
        best = BestCheckpointer(settings.eval_period, weights, settings.best_metric)
        made += [best] * comm.is_main_process()
        early = settings.get("early_stop", {})
        if early.get("patience"):
            made.append(EarlyStop(settings.best_metric, settings.eval_period, **early))
    else:
        logging.getLogger(__name__).warning(
            "There is no data to evaluate on: the result is model_final.pth"
        )
    made.append(
        MetricsWriter(settings.output_dir, settings.log_period, settings.get("writers", []))
    )
    return made


def resume_or_load(
    trainer: Trainer, cfg: DictConfig, checkpointer: Checkpointer, resume: bool
) -> int:
    """Load the last or the initial checkpoint, and return the first iteration.

    Raises:
        CheckpointError: if the checkpoint is missing or does not fit.
        OSError: if none of the checkpoints to resume is intact.
    """
    start_iter = 0
    if resume and checkpointer.has_checkpoint():
        trainer.iter = -1  # stays if the file has no state of a trainer
        checkpointer.load(path := checkpointer.newest())
        start_iter = trainer.iter + 1
        if start_iter == 0:
            raise CheckpointError(
                f"{path} has weights, but no state of a run that --resume could continue: "
                f"train.init_checkpoint={path}, without --resume, starts from the weights"
            )
    else:
        reset = cfg.train.get("init_reset") or []
        initialize(checkpointer.model, cfg.train.init_checkpoint, reset)
    if len(set(comm.all_gather(start_iter))) > 1:
        raise CheckpointError(
            f"{cfg.train.output_dir} differs between machines: --resume needs a shared folder"
        )
    return start_iter


def initialize(model: nn.Module, path: str, reset: Sequence[str] = ()) -> None:
    """Load `train.init_checkpoint`, a whole model or a backbone; "" keeps random weights.

    Args:
        reset: `train.init_reset`, prefixes of parameters that keep their initial values.
    """
    try:
        InitialCheckpointer(model, reset).load(path)
    except MissingCheckpointError as error:
        raise MissingCheckpointError(
            f"{error}: train.init_checkpoint=PATH names another file, train.init_checkpoint='' "
            "starts from random weights"
        ) from error


def train_loader(cfg: DictConfig, start: int) -> Iterable[list[dict[str, Any]]]:
    """Build the training loader, positioned at a batch."""
    loader: Iterable[list[dict[str, Any]]] = build(cfg.dataloader.train, "dataloader.train")
    if hasattr(loader, "seek"):
        loader.seek(start)
    elif start > 0:
        logging.getLogger(__name__).warning(
            "dataloader.train (%s) has no `seek`, unlike samdetr.data.build_train_loader: the "
            "order of images differs from that of an uninterrupted run",
            type(loader).__name__,
        )
    return loader
