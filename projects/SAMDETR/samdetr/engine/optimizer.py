"""The optimiser of section 5.1: AdamW with a smaller learning rate for the backbone."""

from __future__ import annotations

import logging
import math

import torch
from omegaconf import DictConfig
from torch import nn

from ..errors import ConfigError
from .building import build


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
        ConfigError: if it cannot be what its keys say.
    """
    optimizer.params.model = model
    try:
        built: torch.optim.Optimizer = build(optimizer, "optimizer")
    finally:
        del optimizer.params.model  # a config that holds a module can no longer be saved
    _check(built)
    logger = logging.getLogger(__name__)
    for group in built.param_groups:
        size = sum(parameter.numel() for parameter in group["params"])
        logger.info(
            "learning rate %g, weight decay %g: %d tensors, %d parameters",
            group["lr"],
            group["weight_decay"],
            len(group["params"]),
            size,
        )
    return built


def _check(optimizer: torch.optim.Optimizer) -> None:
    """Find what torch's optimisers check of their defaults alone."""
    for group in optimizer.param_groups:
        for name in ("lr", "weight_decay"):
            if not 0 <= group[name] < math.inf:
                raise ConfigError(
                    f"optimizer gives {len(group['params'])} tensors {name}={group[name]}, "
                    "expected 0 or more, and finite"
                )
