"""Making what a config describes, with errors that say which key is at fault."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from detectron2.config import instantiate
from detectron2.data import transforms as T
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import nn
from torch.utils.hooks import RemovableHandle

from ..errors import ConfigError, SamdetrError
from ..modeling import SAMDETR
from ..randomness import seeded

MAPPERS = ("dataloader.train.mapper", "dataloader.test.mapper")
# Not the config's fault, or errors that say it all.
OTHERS = (SamdetrError, OSError, ImportError)
TRIED = (64, 64)  # pixels of the image that a model and its mappers are tried on
ATTEMPTS = 8  # at a mapper


def build(node: Any, key: str) -> Any:
    """Make what a part of a config describes.

    Args:
        node: the part.
        key: its key in the config.

    Raises:
        ConfigError: if its arguments cannot be; names the innermost call that fails.
        SamdetrError, OSError, ImportError: if what it needs is not there or cannot be used.
    """
    try:
        return instantiate(node)
    except OTHERS:
        raise
    except Exception as error:  # a constructor fails in any way on what it does not expect
        raise ConfigError(f"the {_culprit(node, key)} cannot be built: {_reason(error)}") from error


def build_and_try(node: Any, key: str) -> nn.Module:
    """As `build`, for a model; whether its parts fit together shows on one small image."""
    model: nn.Module = build(node, key)
    if isinstance(model, SAMDETR):
        _try(model)
    return model


def check_parts(cfg: DictConfig) -> None:
    """Make the schedule and the mappers, which takes no data and no time, to see if that works.

    Raises: as `build`.
    """
    for key in MAPPERS:
        _try_mapper(build(OmegaConf.select(cfg, key), key), key)
    multiplier = build(cfg.lr_multiplier, "lr_multiplier")
    last = (cfg.train.max_iter - 1) / cfg.train.max_iter
    for where in (0.0, last / 4, last / 2, last * 3 / 4, last):
        try:
            factor = multiplier(where)
            fits = 0 <= factor < math.inf
        except Exception as error:
            raise ConfigError(f"lr_multiplier cannot be used: {_reason(error)}") from error
        if not fits:
            raise ConfigError(
                f"lr_multiplier is {factor} at {where:.0%} of the run, expected 0 or more"
            )


def _try_mapper(mapper: Any, key: str) -> None:
    """Augment a grey image, if a mapper says how, by some of the ways that chance may take."""
    augment = getattr(mapper, "augmentations", None)
    if augment is None:
        return
    for attempt in range(ATTEMPTS):
        image = T.AugInput(np.full((*TRIED, 3), 128, np.uint8))
        try:
            with seeded(attempt):
                augment(image)
            size = np.asarray(image.image).shape[:2]
            fits = min(size) > 0
        except Exception as error:
            raise ConfigError(f"{key}.augmentations cannot be used: {_reason(error)}") from error
        if not fits:
            raise ConfigError(f"{key}.augmentations make images of {size[0]} x {size[1]} pixels")


def _culprit(node: Any, key: str) -> str:
    """The key of the innermost call that fails, tried one after the other."""
    for name, child in _items(node):
        try:
            instantiate(child)
        except Exception:
            return _culprit(child, f"{key}.{name}")
    return key


def _items(node: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(node, DictConfig):
        yield from node.items()
    elif isinstance(node, ListConfig):
        yield from enumerate(node)


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text}"


@torch.no_grad()
def _try(model: SAMDETR) -> None:
    """Have a model look at nothing, as it is built, on the CPU.

    Raises:
        ConfigError: names the innermost module that fails.
    """
    entered: list[str] = []
    hooks = [x for name, y in model.named_modules() for x in _follow(name, y, entered)]
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        model.predict(torch.zeros(1, 3, *TRIED), torch.zeros(1, *TRIED, dtype=torch.bool))
    except Exception as error:
        where = f"the model, in {entered[-1]}" if entered else "the model"
        raise ConfigError(f"the parts of {where}, do not fit: {_reason(error)}") from error
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode


def _follow(name: str, module: nn.Module, entered: list[str]) -> list[RemovableHandle]:
    """Have a module put its name on the list while it runs."""

    def leave(*_: Any) -> None:
        entered.pop()

    return [
        module.register_forward_pre_hook(lambda *_: entered.append(name)),
        module.register_forward_hook(leave),
    ]
