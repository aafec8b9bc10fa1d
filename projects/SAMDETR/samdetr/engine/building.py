"""Making what a config describes, with errors that say which key is at fault."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from detectron2.config import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import nn

from ..errors import ConfigError, SamdetrError
from ..modeling import SAMDETR
from .trying import reason, try_mapper, try_model, try_schedule

MAPPERS = ("dataloader.train.mapper", "dataloader.test.mapper")
# Not the config's fault, or errors that say it all.
OTHERS = (SamdetrError, OSError, ImportError)


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
        raise ConfigError(f"the {_culprit(node, key)} cannot be built: {reason(error)}") from error


def build_and_try(node: Any, key: str) -> nn.Module:
    """As `build`, for a model; whether its parts fit together shows on one small image."""
    model = build(node, key)
    if not isinstance(model, nn.Module):
        raise ConfigError(f"{key} makes a {type(model).__name__}, expected a torch.nn.Module")
    if isinstance(model, SAMDETR):
        try_model(model)
    return model


def check_parts(cfg: DictConfig) -> None:
    """Make the schedule and the mappers, which takes no data and no time, to see if that works.

    Raises: as `build`.
    """
    for key in MAPPERS:
        if (node := OmegaConf.select(cfg, key)) is not None:  # loaders of one's own may have none
            try_mapper(build(node, key), key)
    try_schedule(build(cfg.lr_multiplier, "lr_multiplier"), cfg.train.max_iter)


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
