"""The model of a config, on its device: compiled and frozen parts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig
from torch import nn

from ..errors import ConfigError
from .config import build


def build_model(cfg: DictConfig) -> nn.Module:
    """Build the model of a config on `train.device`.

    Raises:
        ConfigError: if the model refuses its arguments, if it cannot be moved to the device, or if
            `train.compile` or `train.freeze` names a part that the model does not have.
    """
    model: nn.Module = build(cfg.model, "model")
    freeze(model, cfg.train.get("freeze") or [])
    compile_parts(model, cfg.train.get("compile", []))  # not in configs of older runs
    try:
        return model.to(cfg.train.device)
    except (AssertionError, RuntimeError) as error:  # no such device, no GPU, no memory on it
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"train.device={cfg.train.device} cannot be used: {reason}") from error


def compile_parts(model: nn.Module, names: Sequence[str], **options: Any) -> None:
    """Compile submodules in place, with dynamic shapes, when they are first called.

    Args:
        model: keeps the names of its parameters.
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


def matching(model: nn.Module, prefix: str, key: str) -> list[str]:
    """Return the names of the parameters that begin with a prefix.

    Args:
        key: of the config that has the prefix, named in the error.

    Raises:
        ConfigError: if there are none.
    """
    names = [name for name, _ in model.named_parameters()]
    if found := [name for name in names if name.startswith(prefix)]:
        return found
    starts = ", ".join(dict.fromkeys(name.partition(".")[0] for name in names))
    raise ConfigError(f"{key} has {prefix!r}, and no parameter begins with it, but with {starts}")


def freeze(model: nn.Module, prefixes: Sequence[str]) -> None:
    """Exclude the parameters whose names begin with one of the prefixes from training."""
    frozen = {name for x in prefixes for name in matching(model, x, "train.freeze")}
    parameters = dict(model.named_parameters())
    for name in frozen:
        parameters[name].requires_grad_(False)
    if frozen:
        text = "train.freeze: %d of %d tensors are not trained"
        logging.getLogger(__name__).info(text, len(frozen), len(parameters))
