"""Configs in YAML may come from anybody: they are data, and call what is on a list alone.

A `.py` config is a program and runs as one. In YAML `_target_` names what is called with the values
beside it: left to itself it would call `os.system`. A run's `config.yaml` needs no more than the
parts of detectors, data sets, optimisers and evaluators, so nothing else is called. Overrides on a
command line are the user's own, and come later.
"""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Iterator
from typing import Any

import yaml
from detectron2.config import LazyConfig
from detectron2.layers import ShapeSpec
from detectron2.utils.file_io import PathManager
from detectron2.utils.registry import locate
from omegaconf import DictConfig, OmegaConf

from ..errors import ConfigError

# Modules, with those below them, of which every class may be called.
CLASSES = (
    "samdetr.data",
    "samdetr.engine.optimizer",
    "samdetr.evaluation",
    "samdetr.modeling",
    "detectron2.data.samplers",
    "detectron2.data.transforms",
    "detectron2.evaluation",
    "detectron2.layers",
    "detectron2.modeling",
    "detectron2.solver",
    "detectron2.structures",
    "fvcore.common.param_scheduler",
    "fvcore.transforms",
    "torch.nn.modules",
    "torch.optim",
    "torchvision.ops",
)
UNSAFE = ("detectron2.modeling.mmdet_wrapper",)  # builds and loads what other packages like
# A function can do anything, so that each one has to be named.
FUNCTIONS = frozenset(
    {
        "samdetr.data.datasets.load_detection_dataset",
        "samdetr.data.loading.build_train_loader",
        "samdetr.data.own.load_own_dataset",
        "samdetr.modeling.backbone.resnet50_dc5_stages",
        "samdetr.modeling.mini_backbone.mini_resnet",
        "detectron2.data.build.build_detection_test_loader",
        "detectron2.data.samplers.distributed_sampler.RepeatFactorTrainingSampler"
        ".repeat_factors_from_category_frequency",
        "detectron2.modeling.backbone.resnet.ResNet.make_default_stages",
        "detectron2.modeling.backbone.resnet.ResNet.make_stage",
        "detectron2.solver.build.get_default_optimizer_params",
    }
)
PACKAGES = ("samdetr.", "detectron2.", "fvcore.", "torch.", "torchvision.")
NAME = re.compile(r"\w+(\.\w+)+")
REFERENCE = re.compile(r"\$\{\.*\w+(\.\w+)*\}")  # to another key, not a call of a resolver
HINT = " (if you trust whoever wrote the config: --trusted-config, or `trusted` in Python)"
MOST_VALUES = 100_000  # aliases let a short file stand for more than fits into memory


def add_trust_option(parser: argparse.ArgumentParser) -> None:
    """Add --trusted-config."""
    parser.add_argument(
        "--trusted-config",
        action="store_true",
        help="let a config in YAML call anything, which can harm you if you do not know who wrote "
        "it; without it such a config calls the parts of detectors, data sets and optimisers alone",
    )


def read_yaml(path: str, trusted: bool = False) -> DictConfig:
    """Read a config in YAML.

    Args:
        path: file.
        trusted: if whoever wrote it may run code.

    Raises:
        ConfigError: if it is not YAML, holds no keys, or without `trusted` asks for more than data
            and calls that are harmless.
    """
    if trusted:
        return LazyConfig.load(path)
    try:
        with PathManager.open(path) as file:
            content = yaml.load(file, ConfigLoader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"--config-file {path} cannot be read: {reason}") from error
    if not isinstance(content, dict):  # of a text OmegaConf would read the text as YAML once more
        raise ConfigError(f"{path} cannot be read: expected keys and values")
    for number, (key, value) in enumerate(_values(content)):
        if number > MOST_VALUES:
            raise ConfigError(f"{path} has more than {MOST_VALUES} values, aliases followed")
        _check(value, f"{path}: {key}")
    return OmegaConf.create(content, flags={"allow_objects": True})


def find(name: Any) -> Any:
    """What a config may call by a name.

    Raises:
        ConfigError: if it may not, or if there is nothing of that name.
    """
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ConfigError(f"{name!r} is not the full name of a class or a function")
    if not name.startswith(PACKAGES):
        raise ConfigError(f"{name!r} is not a part of {', '.join(PACKAGES)}{HINT}")
    try:
        found = locate(name)
    except Exception as error:  # an import can fail in any way
        raise ConfigError(f"{name!r} cannot be found: {error}") from error
    # A module has what it imports: a name that begins well can end at `os.system`.
    own = f"{getattr(found, '__module__', None)}.{getattr(found, '__qualname__', None)}"
    part = inspect.isclass(found) and _inside(own, CLASSES) and not _inside(own, UNSAFE)
    if not part and not (inspect.isroutine(found) and own in FUNCTIONS):
        kind = f"is {own}, which" if callable(found) else "cannot be called, and"
        raise ConfigError(f"{name!r} {kind} is not among the parts that configs need{HINT}")
    return found


def _inside(name: str, modules: tuple[str, ...]) -> bool:
    return any(name.startswith(f"{x}.") for x in modules)


def _values(content: Any) -> Iterator[tuple[str, Any]]:
    """Everything inside with its key; endless if something is inside itself."""
    left = [("", content)]
    while left:
        key, value = left.pop()
        yield key, value
        if isinstance(value, dict):
            left += [(f"{key}.{name}".lstrip("."), x) for name, x in value.items()]
        elif isinstance(value, list | tuple | set):
            left += [(f"{key}.{index}", x) for index, x in enumerate(value)]


def _check(value: Any, key: str) -> None:
    if isinstance(value, str) and "${" in REFERENCE.sub("", value):
        raise ConfigError(
            f"{key} is {value!r}: in YAML only another key may stand in ${{...}}, for a resolver "
            f"can read the environment or write calls{HINT}"
        )
    if not isinstance(value, dict) or "_target_" not in value:
        return
    try:
        find(value["_target_"])
    except ConfigError as error:
        raise ConfigError(f"{key}._target_: {error}") from error
    if "cfg" in value:  # of Detectron2's older configs, whose proposal files are pickles
        raise ConfigError(f"{key}.cfg: a call in YAML cannot be given a whole config{HINT}")


class ConfigLoader(yaml.SafeLoader):
    """Plain data and what Detectron2 writes beside it: tuples, named classes and `ShapeSpec`."""

    def named(self, name: str, node: yaml.Node) -> Any:
        """The class or function of a tag."""
        return find(name)

    def tuple_of(self, node: yaml.SequenceNode) -> tuple[Any, ...]:
        """A sequence as a tuple."""
        return tuple(self.construct_sequence(node, deep=True))

    def shape_spec(self, node: yaml.MappingNode) -> ShapeSpec:
        """A mapping as the arguments of a `ShapeSpec`."""
        try:
            return ShapeSpec(**self.construct_mapping(node, deep=True))
        except TypeError as error:
            raise ConfigError(f"ShapeSpec: {error}") from error


PYTHON = "tag:yaml.org,2002:python/"
ConfigLoader.add_multi_constructor(f"{PYTHON}name:", ConfigLoader.named)
ConfigLoader.add_constructor(f"{PYTHON}tuple", ConfigLoader.tuple_of)
ConfigLoader.add_constructor(
    f"{PYTHON}object:{ShapeSpec.__module__}.{ShapeSpec.__qualname__}", ConfigLoader.shape_spec
)
