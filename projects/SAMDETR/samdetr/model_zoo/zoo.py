"""Configs and checkpoints by name, wherever the package was installed.

A name is the path of a config under `configs/` without its suffix. In an installed package that
folder is part of it (`setup.py` puts it there); in a checkout it is the one at the top.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from copy import deepcopy
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path

from omegaconf import DictConfig
from torch import nn

from ..checkpoint import Checkpointer
from ..engine import ConfigError, build_model, load_config
from ..engine.settings import check_device

PACKAGE = Path(__file__).parents[1]
WEIGHTS = PACKAGE / "weights"
FOLDERS = (PACKAGE / "configs", PACKAGE.parents[2] / "configs")  # installed, in a checkout
COMMON = "common"  # parts of configs, of which none is a config


class UnknownConfigError(ConfigError):
    """A name that no config has."""


def config_folder() -> Path:
    """Where the configs are.

    Raises:
        FileNotFoundError: if the package was installed without them.
    """
    for folder in FOLDERS:
        if (folder / COMMON).is_dir():
            return folder
    raise FileNotFoundError(
        f"the configs of samdetr are neither in {FOLDERS[0]} nor in {FOLDERS[1]}: install the "
        "package from its wheel or checkout by pip, which unpacks it"
    )


def names(pattern: str = "*") -> list[str]:
    """The names of all configs, sorted, or of those that match a pattern, such as "coco/*_dn_*"."""
    folder = config_folder()
    paths = [x.relative_to(folder).with_suffix("") for x in folder.rglob("*.py")]
    found = [x.as_posix() for x in paths if x.parts[0] != COMMON]
    return sorted(x for x in found if fnmatchcase(x, pattern))


def get_config_file(name: str) -> str:
    """The file of a config.

    Args:
        name: such as "coco/sam_detr_pp_r50_smca_dn_12ep"; a suffix ".py" may follow.

    Raises:
        UnknownConfigError: if there is no such config; names the nearest.
    """
    name = name.removesuffix(".py")
    known = names()
    if name not in known:
        nearest = ", ".join(get_close_matches(name, known, n=3, cutoff=0.0))
        raise UnknownConfigError(f"config {name!r} is not in the zoo, its nearest are {nearest}")
    return str(config_folder() / f"{name}.py")


def get_config(name: str, overrides: Sequence[str] = ()) -> DictConfig:
    """A config by its name.

    Args:
        name: as in `get_config_file`.
        overrides: `key=value`, as in `samdetr.engine.load_config`.

    Raises:
        UnknownConfigError: if there is no such config.
        ConfigError: if an override does not fit it.
    """
    return load_config(get_config_file(name), overrides)


def load_any(
    config: str | os.PathLike[str], overrides: Sequence[str] = (), trusted: bool = False
) -> DictConfig:
    """A config by its file or, where there is no such file, by its name in the zoo.

    Args:
        config: file or name.
        overrides, trusted: as in `samdetr.engine.load_config`.

    Raises:
        UnknownConfigError: if it is neither.
        ConfigError: if the file cannot be read, or if an override does not fit it.
    """
    path = os.fspath(config)
    if not os.path.isfile(path):
        try:
            path = get_config_file(path)
        except UnknownConfigError as error:
            raise UnknownConfigError(f"{path} is not a file, and {error}") from None
    try:
        return load_config(path, overrides, trusted)
    except ConfigError:
        raise
    except Exception as error:  # a config is code, in which anything may go wrong
        raise ConfigError(
            f"{path} cannot be read as a config: {type(error).__name__}: {error}"
        ) from error


def get_checkpoint(name: str) -> str | None:
    """The file with trained weights that the package has for a config; None if it has none.

    Raises:
        UnknownConfigError: if there is no such config.
    """
    get_config_file(name)
    path = WEIGHTS / f"{name.removesuffix('.py').replace('/', '_')}.pth"
    return str(path) if path.is_file() else None


def get(name: str, checkpoint: str | None = None, device: str | None = None) -> nn.Module:
    """A model by the name of its config, in training mode, as Detectron2's zoo gives it.

    Args:
        name: as in `get_config_file`.
        checkpoint: file or URL; None for the one in the package, or random weights where it has
            none; "" for random weights.
        device: such as "cpu"; None for the config's, a GPU if there is one.

    Raises:
        ConfigError: if there is no such config or device.
        CheckpointError: if the checkpoint is not there or does not fit.
    """
    path = get_checkpoint(name) if checkpoint is None else checkpoint
    return build(get_config(name), path or "", device)


def build(cfg: DictConfig, checkpoint: str, device: str | None = None) -> nn.Module:
    """A config's model with the weights of a checkpoint; arguments and errors as in `get`."""
    if device is not None:
        check_device(device)
        cfg = deepcopy(cfg)
        cfg.train.device = device
    model = build_model(cfg)
    Checkpointer(model).load(checkpoint)
    return model
