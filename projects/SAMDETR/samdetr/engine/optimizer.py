"""The optimiser of section 5.1: AdamW with a smaller learning rate for the backbone."""

from __future__ import annotations

import inspect
import logging
import math
from typing import Any

import torch
from detectron2.config import instantiate
from omegaconf import DictConfig
from torch import nn

from ..errors import ConfigError
from .building import build
from .trying import reason

FINITE = {"lr", "weight_decay", "momentum", "eps"}  # options of optimisers that are 0 or more
STEPS = 2  # of a trial: momentum counts from the second on


class BackboneFactor:
    """Factor of the learning rate by the name of the parameter, for `lr_factor_func`.

    Args:
        factor: for the backbone's parameters; all others have 1.
        prefix: how the names of the backbone's parameters start.
    """

    def __init__(self, factor: float = 0.1, prefix: str = "backbone."):
        if not 0 <= factor < math.inf:
            raise ValueError(f"factor is {factor}, must be 0 or more, and finite")
        self.factor = factor
        self.prefix = prefix

    def __call__(self, name: str) -> float:
        return self.factor if name.startswith(self.prefix) else 1.0


def build_optimizer(optimizer: DictConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Make the optimiser of a config for a model.

    Args:
        optimizer: whose `params` is a call that takes the model, such as Detectron2's
            `get_default_optimizer_params`.
        model: whose parameters it shall step.

    Raises:
        ConfigError: if it cannot be what its keys say, or cannot step.
    """
    optimizer.params.model = model
    try:
        built = build(optimizer, "optimizer")
        _check(built)
        _try(optimizer, built)
    finally:
        del optimizer.params.model  # a config that holds a module can no longer be saved
    logger = logging.getLogger(__name__)
    for group in built.param_groups:
        size = sum(parameter.numel() for parameter in group["params"])
        decay = f"weight decay {group['weight_decay']:g}" if "weight_decay" in group else "no decay"
        logger.info(
            "learning rate %g, %s: %d tensors, %d parameters",
            group["lr"],
            decay,
            len(group["params"]),
            size,
        )
    return built


def _check(optimizer: Any) -> None:
    """Find what is none, or not for the trainer, and what torch checks of the defaults alone."""
    kind = type(optimizer).__name__
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ConfigError(
            f"optimizer makes a {kind}, expected one of torch's, such as torch.optim.AdamW"
        )
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        raise ConfigError(f"optimizer is {kind}, whose step needs a closure: training has none")
    for group in optimizer.param_groups:
        for name in FINITE & set(group):
            value = group[name]
            if isinstance(value, float | int) and not 0 <= value < math.inf:
                raise ConfigError(
                    f"optimizer gives {len(group['params'])} tensors {name}={value}, "
                    "expected 0 or more, and finite"
                )


def _try(config: DictConfig, built: torch.optim.Optimizer) -> None:
    """Make the optimiser once more, for every kind of group with one number, and have it step.

    Args:
        config: of the optimiser, with the model.
        built: from it; left as it is.
    """
    tried = set()
    for group in built.param_groups:
        options = {name: value for name, value in group.items() if name != "params"}
        by_shape = {x.ndim: x for x in group["params"] if not x.is_meta}  # those cannot step
        kind = repr((options, sorted(by_shape)))
        if kind in tried or not by_shape:
            continue
        tried.add(kind)
        # Of as many dimensions and on the same device: both decide what a step can be.
        numbers = [nn.Parameter(x.new_ones([1] * ndim)) for ndim, x in by_shape.items()]
        try:
            optimizer = _made_for([{**options, "params": numbers}], config)
            for _ in range(STEPS):
                for number in numbers:
                    number.grad = torch.ones_like(number)
                optimizer.step()
            fits = all(number.isfinite().all() for number in numbers)
        except Exception as error:
            raise ConfigError(f"optimizer cannot step with {options}: {reason(error)}") from error
        if not fits:
            raise ConfigError(
                f"optimizer steps to weights that are not finite with {options}, from weights and "
                "gradients of 1"
            )


def _made_for(groups: list[dict[str, Any]], config: DictConfig) -> torch.optim.Optimizer:
    """The optimiser of a config for other groups of parameters."""
    target = config.params._target_
    config.params._target_ = lambda **_: groups
    try:
        optimizer: torch.optim.Optimizer = instantiate(config)
    finally:
        config.params._target_ = target
    return optimizer
