"""Reading a LazyConfig and its command-line overrides, with errors for what cannot work.

`LazyConfig.apply_overrides` adds a key it does not know to the config, where nobody reads it, so
that a misspelt override changes nothing and says nothing. Here it is an error.
"""

from __future__ import annotations

import difflib
import inspect
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from detectron2.config import LazyConfig
from detectron2.utils.file_io import PathManager
from detectron2.utils.registry import locate
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..errors import ConfigError
from .calls import check_calls, is_near
from .settings import check_settings
from .trust import read_yaml

REQUIRED = (
    "model",
    "dataloader.train",
    "dataloader.test",
    "dataloader.evaluator",
    "optimizer",
    "lr_multiplier",
    "train.output_dir",
    "train.init_checkpoint",
    "train.max_iter",
    "train.seed",
    "train.device",
    "train.amp",
    "train.clip_grad",
    "train.ddp",
    "train.checkpointer",
    "train.eval_period",
    "train.best_metric",
    "train.log_period",
)
# What a value of the config may become, and how to say it. A bool is an int to Python: it is first.
KINDS: tuple[tuple[type, tuple[type, ...], str], ...] = (
    (bool, (bool,), "true or false"),
    (int, (int,), "an integer"),
    (float, (int, float), "a number"),
    (str, (str,), "text (quote what looks like a number)"),
    (ListConfig, (list,), "a list, [a,b]"),
    (DictConfig, (), "a group of keys"),
)
NOWHERE = object()  # what is looked up is not in the config


def load_config(path: str, overrides: Sequence[str] = (), trusted: bool = False) -> DictConfig:
    """Read a config file, apply overrides to it and check it.

    Args:
        path: a LazyConfig, `.py`, which is a program and runs, or the `config.yaml` of a run.
        overrides: `key=value` as in Hydra; `+key=value` for a key that is not there, or a value of
            another type.
        trusted: if a config in YAML may call anything, as a `.py` may; see `engine.trust`.

    Raises:
        ConfigError: if the file is missing, is broken, lacks a part or is not to be trusted, if an
            override names an unknown key or has a value of another type than the key's, or if a
            key is unknown where it stands or has a value that cannot be.
    """
    cfg = read_config(path, trusted)
    apply_overrides(cfg, overrides)
    check_config(cfg)
    return cfg


def read_config(path: str, trusted: bool = False) -> DictConfig:
    """The first step of `load_config`."""
    if not PathManager.isfile(path):
        raise ConfigError(f"--config-file {path!r} is not a file")
    if not path.endswith((".py", ".yaml", ".yml")):
        raise ConfigError(f"--config-file {path!r} must be a .py or .yaml file")
    try:
        cfg = LazyConfig.load(path) if path.endswith(".py") else read_yaml(path, trusted)
    except SyntaxError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"--config-file {path} cannot be read: {reason}") from error
    lacking = [key for key in REQUIRED if OmegaConf.select(cfg, key, default=NOWHERE) is NOWHERE]
    if lacking:
        raise ConfigError(
            f"{path} lacks {', '.join(lacking)}; configs/common/ has parts to import them from"
        )
    return cfg


def check_config(cfg: DictConfig, processes: int = 1) -> None:
    """Find what cannot work in a config, before anything is made of it and any data is read.

    Args:
        cfg: with `REQUIRED`, and its overrides.
        processes: that share a batch.

    Raises:
        ConfigError: names the key, its value and what would be right.
    """
    content = _resolved(cfg)
    check_calls(content)
    check_settings(content, processes)


def _resolved(cfg: DictConfig) -> dict[str, Any]:
    try:
        content = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except (OmegaConfBaseException, RecursionError) as error:
        key = getattr(error, "full_key", None) or "the config"
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ConfigError(f"{key} refers to what is not there: {reason}") from error
    return cast(dict[str, Any], content)


def apply_overrides(cfg: DictConfig, overrides: Sequence[str]) -> None:
    """Set keys of a config by overrides, as `load_config` says."""
    for override in _parse(overrides):
        key, value = override.key_or_group, override.value()
        if override.is_add():
            OmegaConf.update(cfg, key, value)
        else:
            _set(cfg, key, value)


def _parse(overrides: Sequence[str]) -> Iterator[Override]:
    for text in overrides:
        if text.startswith("--"):
            raise ConfigError(f"{text} must stand before the overrides")
        try:
            override = OverridesParser.create().parse_override(text)
        except (HydraException, ValueError) as error:  # ValueError: a number of 5,000 digits
            raise ConfigError(
                f"override {reprlib.repr(text)} is not of the form key=value: {error}"
            ) from error
        if override.is_delete() or override.is_sweep_override():
            raise ConfigError(f"override {text!r} must set one value: key=value, key=[a,b]")
        yield override


def _set(cfg: DictConfig, key: str, value: Any) -> None:
    old = OmegaConf.select(cfg, key, default=NOWHERE)
    if isinstance(old, DictConfig) and isinstance(value, dict):
        for name, part in value.items():
            _set(cfg, f"{key}.{name}", part)
        return
    if old is NOWHERE:
        _check_argument(cfg, key)
    else:
        value = _like(old, value, key)
    OmegaConf.update(cfg, key, value)


def _check_argument(cfg: DictConfig, key: str) -> None:
    """Allow a key that is not in the config if the call it belongs to takes it."""
    parent, _, name = key.rpartition(".")
    arguments, takes_any = _arguments(OmegaConf.select(cfg, parent) if parent else None)
    # A call that takes any argument usually passes it on; one letter off is still a mistake.
    if name in arguments or takes_any and not any(is_near(name, x) for x in arguments):
        return
    known = [*_keys(OmegaConf.to_container(cfg)), *(f"{parent}.{x}" for x in arguments)]
    nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
    raise ConfigError(
        f"override {key!r}: the config has no such key, the nearest is {nearest[0]!r} "
        f"(+{key}=... adds a new one)"
    )


def _arguments(node: Any) -> tuple[list[str], bool]:
    """Names that a `_target_` takes, with those written in the config, and if it takes any name."""
    target = node.get("_target_") if isinstance(node, DictConfig) else None
    target = locate(target) if isinstance(target, str) else target
    if not callable(target):
        return [], False
    parameters = inspect.signature(target).parameters.values()
    names = [x.name for x in parameters if x.kind in (x.POSITIONAL_OR_KEYWORD, x.KEYWORD_ONLY)]
    takes_any = any(x.kind is x.VAR_KEYWORD for x in parameters)
    return names + [str(name) for name in node if name not in names], takes_any


def _keys(node: Any, prefix: str = "") -> Iterator[str]:
    """Every key of nested dicts and lists, dotted, groups included."""
    if isinstance(node, Mapping):
        items = [(str(name), value) for name, value in node.items()]
    elif isinstance(node, Sequence) and not isinstance(node, str):
        items = [(str(index), value) for index, value in enumerate(node)]
    else:
        return
    for name, value in items:
        yield prefix + name
        yield from _keys(value, f"{prefix}{name}.")


def _like(old: Any, new: Any, key: str) -> Any:
    """Check that `new` is of the type of `old`, and return it; 1e3 counts as the integer 1000.

    None fits everything and everything fits None.
    """
    if new is None:
        return new
    if isinstance(old, int) and isinstance(new, float) and new.is_integer():
        new = int(new)
    for kind, accepted, wanted in KINDS:
        if isinstance(old, kind):
            if type(new) not in accepted:
                raise ConfigError(f"override {key}={new!r}: the config has {wanted} there")
            break
    return new
