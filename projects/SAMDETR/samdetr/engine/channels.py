"""Backbones and mappers of a config for images of any number of channels."""

from __future__ import annotations

import inspect
from typing import Any

from detectron2.utils.registry import locate
from omegaconf import DictConfig, OmegaConf

from ..data.bands import BANDS


def follow_channels(cfg: DictConfig) -> None:
    """Have the backbone and the mappers of a config use as many channels as `model.pixel_mean`."""
    count = len(cfg.model.get("pixel_mean") or range(3))
    if count == 3:
        return
    for part in ("train", "test"):
        key = f"dataloader.{part}.mapper.image_format"
        if OmegaConf.select(cfg, key) in ("RGB", "BGR"):
            OmegaConf.update(cfg, key, "L" if count == 1 else BANDS)
    _set_inputs(cfg.model.get("backbone"), count)


def _set_inputs(node: Any, count: int) -> None:
    """Set the arguments `in_channels` and `in_chans` that are 3 of a call and of those in it."""
    if not isinstance(node, DictConfig):
        return
    for child in node.values():
        _set_inputs(child, count)
    target = node.get("_target_")
    call = locate(target) if isinstance(target, str) else target
    arguments = inspect.signature(call).parameters if callable(call) else {}
    for key in {"in_channels", "in_chans"} & set(arguments):
        if node.get(key, arguments[key].default) == 3:
            node[key] = count
