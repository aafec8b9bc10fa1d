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
import reprlib
import textwrap
from collections.abc import Iterable, Iterator
from typing import Any

import yaml
from detectron2.config import LazyConfig
from detectron2.layers import ShapeSpec
from detectron2.utils.file_io import PathManager
from detectron2.utils.registry import locate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..errors import ConfigError

UNREADABLE = (OmegaConfBaseException, RecursionError, ValueError, yaml.YAMLError)  # incl. Unicode

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
        "samdetr.data.loader.build_train_loader",
        "samdetr.data.own.load_own_dataset",
        "samdetr.modeling.backbone.resnet50_dc5_stages",
        "samdetr.modeling.backbone.mini_resnet",
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
REFERENCE = re.compile(r"\$\{(\.*)(\w+(?:\.\w+)*)\}")  # to another key, not a call of a resolver
# Texts are put together and read again when parts are made. No sign of these may stand beside a
# reference, nor two references side by side, so that no other reference can come of that.
SIGNS = re.compile(r"[${\\]")
SIDE_BY_SIDE = re.compile(rf"({REFERENCE.pattern}){{2}}")
HINT = " (if you trust whoever wrote the config: --trusted-config, or `trusted` in Python)"
# Aliases and references let a short file stand for more than fits into memory.
MOST_VALUES = 100_000
MOST_CHARACTERS = 10_000_000
MOST_GROUPS = 100  # one inside the other
MOST_BITS = 64  # of an integer
LONGEST_REASON = 500  # characters


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
        if not isinstance(content, dict):  # of a text OmegaConf would read the text as YAML again
            raise ValueError("expected keys and values")
        _check(content)
        return OmegaConf.create(content, flags={"allow_objects": True})
    except ConfigError as error:
        raise ConfigError(f"--config-file {path}: {error}") from error
    except UNREADABLE as error:
        reason = textwrap.shorten(str(error), LONGEST_REASON)
        raise ConfigError(f"--config-file {path} cannot be read: {reason}") from error


def find(name: Any) -> Any:
    """What a config may call by a name.

    Raises:
        ConfigError: if it may not, or if there is nothing of that name.
    """
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ConfigError(f"{name!r} is not the full name of a class or a function")
    if not name.startswith(PACKAGES) or "__main__" in name:  # a program, which importing runs
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


def _check(content: dict[Any, Any]) -> None:
    """Check that a config is of a bearable size and asks for nothing but parts.

    Raises:
        ConfigError: if not; names the key.
    """
    characters = 0
    for number, (place, value) in enumerate(_values(content)):
        characters += len(value) if isinstance(value, str) else 0
        if len(place) > MOST_GROUPS:
            raise ConfigError(f"more than {MOST_GROUPS} groups of keys are inside each other")
        if number > MOST_VALUES or characters > MOST_CHARACTERS:
            raise ConfigError(
                f"it has more than {MOST_VALUES} values or {MOST_CHARACTERS} characters, aliases "
                "and references followed"
            )
        if isinstance(value, str) and "${" in value:
            _check_references(value, _key(place))
        elif isinstance(value, int) and value.bit_length() > MOST_BITS:
            raise ConfigError(f"{_key(place)} is an integer of more than {MOST_BITS} bits")
        elif isinstance(value, dict):
            _check_call(value, _key(place))


def _key(place: Iterable[Any]) -> str:
    return ".".join(map(str, place))


def _values(content: Any) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Everything inside with its keys, and what is referred to each time that it is.

    Endless if something is inside itself, or refers to itself.
    """
    left: list[tuple[tuple[Any, ...], Any]] = [((), content)]
    while left:
        place, value = left.pop()
        yield place, value
        if isinstance(value, dict):
            left += [((*place, name), x) for name, x in value.items()]
        elif isinstance(value, list | tuple | set):
            left += [((*place, index), x) for index, x in enumerate(value)]
        elif isinstance(value, str):
            for dots, name in REFERENCE.findall(value):
                target = (*place[: -len(dots)], *name.split(".")) if dots else name.split(".")
                left += _look_up(content, target)


def _look_up(content: Any, target: Iterable[Any]) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """What has these keys, with them as they are; nothing if there is nothing."""
    place: tuple[Any, ...] = ()
    for name in target:
        if isinstance(content, dict):
            keys = [x for x in content if str(x) == str(name)]
        else:
            items = len(content) if isinstance(content, list | tuple) else 0
            keys = [x for x in range(items) if str(x) == str(name)]
        if not keys:
            return
        place, content = (*place, keys[0]), content[keys[0]]
    yield place, content


def _check_references(text: str, key: str) -> None:
    if SIGNS.search(REFERENCE.sub("", text)) or SIDE_BY_SIDE.search(text):
        raise ConfigError(
            f"{key} is {reprlib.repr(text)}: in YAML only another key may stand in ${{...}}, "
            "two of them with text between, for a resolver can read the environment or write "
            f"calls{HINT}"
        )


def _check_call(value: dict[Any, Any], key: str) -> None:
    if "_target_" not in value:
        return
    try:
        find(value["_target_"])
    except ConfigError as error:
        raise ConfigError(f"{key}._target_: {error}") from error
    # Of Detectron2's older configs, whose proposal files are pickles; ResNet.make_stage takes the
    # arguments of each block under names with this at their end.
    for name in value:
        if str(name).removesuffix("_per_block") == "cfg":
            raise ConfigError(f"{key}.{name}: a call in YAML cannot be given a whole config{HINT}")


class ConfigLoader(yaml.SafeLoader):
    """Plain data and what Detectron2 writes beside it: tuples, named classes and `ShapeSpec`."""

    def named(self, name: str, node: yaml.Node) -> Any:
        """The class of a tag. A function would be called with what nobody has checked."""
        found = find(name)
        if not inspect.isclass(found):
            raise ConfigError(f"{name!r} is a function, and only a class can be a value{HINT}")
        return found

    def tuple_of(self, node: yaml.SequenceNode) -> tuple[Any, ...]:
        """A sequence as a tuple."""
        return tuple(self.construct_sequence(node, deep=True))

    def shape_spec(self, node: yaml.MappingNode) -> ShapeSpec:
        """A mapping as the arguments of a `ShapeSpec`."""
        try:
            shape = ShapeSpec(**self.construct_mapping(node, deep=True))
        except TypeError as error:
            raise ConfigError(f"ShapeSpec: {error}") from error
        if not all(value is None or type(value) is int for value in vars(shape).values()):
            raise ConfigError(f"{shape}: expected integers")
        return shape


PYTHON = "tag:yaml.org,2002:python/"
ConfigLoader.add_multi_constructor(f"{PYTHON}name:", ConfigLoader.named)
ConfigLoader.add_constructor(f"{PYTHON}tuple", ConfigLoader.tuple_of)
ConfigLoader.add_constructor(
    f"{PYTHON}object:{ShapeSpec.__module__}.{ShapeSpec.__qualname__}", ConfigLoader.shape_spec
)
