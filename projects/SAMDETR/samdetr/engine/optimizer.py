"""The optimizer of section 5.1: AdamW with a smaller learning rate for the backbone."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping
from typing import Any, cast

import torch
from detectron2.modeling import get_vit_lr_decay_rate
from detectron2.solver.build import get_default_optimizer_params
from omegaconf import DictConfig
from torch import nn

from .config import build
from .model import matching


class BackboneFactor:
    """Learning rate factor by parameter name, for `lr_factor_func`.

    Args:
        factor: for the backbone's parameters; all others have 1.
        prefix: common prefix of the names of the backbone's parameters.
    """

    def __init__(self, factor: float = 0.1, prefix: str = "backbone."):
        if not 0 <= factor < math.inf:
            raise ValueError(f"factor is {factor}, must be 0 or more, and finite")
        self.factor = factor
        self.prefix = prefix

    def __call__(self, name: str) -> float:
        return self.factor if name.startswith(self.prefix) else 1.0


class LayerDecay:
    """Learning rate factor of ViTDet by parameter name, for `lr_factor_func`.

    Factor 1 for all that is not the transformer and `rate` times less for every block down from the
    last one, which has `rate` itself; patch, position and class embeddings come before the first.

    Args:
        rate: above 0 and up to 1; 0.7 for ViT-B in ViTDet.
        num_layers: number of blocks of the transformer, whose names have `.blocks.0.` and so on.
    """

    def __init__(self, rate: float, num_layers: int):
        if not 0 < rate <= 1:
            raise ValueError(f"rate is {rate}, must be above 0 and not above 1")
        self.rate = rate
        self.num_layers = num_layers

    def __call__(self, name: str) -> float:
        embedding = re.sub(r"\.(cls|reg|mask|dist)_token$", ".pos_embed", name)  # timm's tokens
        return float(get_vit_lr_decay_rate(embedding, self.rate, self.num_layers))


def parameter_groups(
    model: nn.Module, factors: Mapping[str, float] | None = None, **options: Any
) -> list[dict[str, Any]]:
    """Return Detectron2's groups of parameters, with learning rate factors by prefix.

    Args:
        model: provides the parameters; those without gradients are left out.
        factors: prefix of names -> factor; the longest prefix of a name decides, and for other
            names `lr_factor_func`, if there is one.
        options: for Detectron2's `get_default_optimizer_params`.

    Raises:
        ConfigError: if no parameter begins with a prefix.
    """
    chosen: dict[str, float] = {}
    for prefix, factor in sorted((factors or {}).items()):  # a longer prefix is a later one
        chosen |= dict.fromkeys(matching(model, prefix, "optimizer.params.factors"), factor)
    others = options.pop("lr_factor_func", None) or (lambda name: 1.0)
    options["lr_factor_func"] = lambda name: chosen[name] if name in chosen else others(name)
    groups: list[dict[str, Any]] = get_default_optimizer_params(model, **options)
    return groups


def build_optimizer(optimizer: DictConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Build the optimizer of a config for a model.

    Args:
        optimizer: its `params` is a call that takes the model, such as Detectron2's
            `get_default_optimizer_params`.
        model: provides the parameters.

    Raises:
        ConfigError: if the optimizer refuses its arguments.
    """
    optimizer.params.model = model
    try:
        built = cast(torch.optim.Optimizer, build(optimizer, "optimizer"))
    finally:
        del optimizer.params.model  # a config that holds a module cannot be saved
    logger = logging.getLogger(__name__)
    for group in built.param_groups:
        logger.info(
            "learning rate %g, weight decay %g: %d tensors, %d parameters",
            group["lr"],
            group.get("weight_decay", 0),
            len(group["params"]),
            sum(parameter.numel() for parameter in group["params"]),
        )
    return built
