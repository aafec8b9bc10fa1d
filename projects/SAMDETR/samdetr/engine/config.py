"""Reading configs: LazyConfig files, their command-line overrides, and YAML written by strangers.

Differences from Detectron2's `LazyConfig`:

* An override of an unknown key is an error that names the nearest key. `LazyConfig.apply_overrides`
  adds the key to the config, where nothing reads it.
* A YAML config is read with a safe loader, and its `_target_`s may only name the parts of
  detectors, data sets, optimizers and evaluators. `LazyConfig.load` calls whatever they name,
  `os.system` included. A `.py` config is a program and runs as one, and overrides on a command line
  are the user's own.
"""

from __future__ import annotations

import argparse
import difflib
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml
from detectron2.config import LazyConfig, instantiate
from detectron2.engine import default_argument_parser
from detectron2.layers import ShapeSpec
from detectron2.utils.file_io import PathManager
from detectron2.utils.registry import locate
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..data.command_line import add_arguments, own_datasets, use
from ..errors import ConfigError, SamdetrError

EPILOG = """
Examples:
  train_net.py --config-file configs/mini/sam_detr_smca.py train.output_dir=output/mini
  train_net.py --config-file configs/coco/sam_detr_r50_smca_12ep.py --num-gpus 8
  train_net.py --config-file output/mini/config.yaml --resume
  train_net.py --config-file output/mini/config.yaml --eval-only \\
      train.init_checkpoint=output/mini/model_best.pth
  train_net.py --config-file configs/coco/sam_detr_r50_smca_12ep.py \\
      --train-json train.json --train-images images --val-json val.json --val-images images \\
      train.init_checkpoint=sam_detr.pth train.max_iter=2000 train.output_dir=output/own
"""
PARTS = ("model", "dataloader.train", "dataloader.test", "dataloader.evaluator", "optimizer")
TRAIN = [  # required keys of `train`
    "output_dir", "init_checkpoint", "max_iter", "seed", "device", "amp", "clip_grad", "ddp",
    "checkpointer", "eval_period", "best_metric", "log_period",
]  # fmt: skip
OPTIONAL = ["deterministic", "skip_nonfinite", "compile", "cudnn_benchmark"]  # of `train`
REQUIRED = (*PARTS, "lr_multiplier", *(f"train.{name}" for name in TRAIN))
# The types that may replace a value of the config. bool is first: it is a subclass of int.
KINDS: tuple[tuple[type, tuple[type, ...], str], ...] = (
    (bool, (bool,), "true or false"),
    (int, (int,), "an integer"),
    (float, (int, float), "a number"),
    (str, (str,), "text (quote what looks like a number)"),
    (ListConfig, (list,), "a list, [a,b]"),
    (DictConfig, (), "a group of keys"),
)
NOWHERE = object()  # result of looking up a missing key

# A YAML config may call the classes of these packages, ...
PACKAGES = (
    "samdetr.data.", "samdetr.engine.", "samdetr.evaluation.", "samdetr.modeling.",
    "detectron2.data.", "detectron2.evaluation.", "detectron2.layers.", "detectron2.modeling.",
    "detectron2.solver.", "detectron2.structures.",
    "fvcore.common.param_scheduler.", "fvcore.transforms.",
    "torch.nn.", "torch.optim.", "torchvision.ops.",
)  # fmt: skip
UNSAFE = "detectron2.modeling.mmdet_wrapper."  # builds arbitrary objects of other packages
# ... and these functions. Others of the same packages load pickles or run config files.
FUNCTIONS = (
    "samdetr.data.build_train_loader",
    "samdetr.data.load_detection_dataset",
    "samdetr.data.load_own_dataset",
    "samdetr.modeling.mini_resnet",
    "samdetr.modeling.resnet50_dc5_stages",
    "detectron2.data.build_detection_test_loader",
    "detectron2.data.samplers.RepeatFactorTrainingSampler.repeat_factors_from_category_frequency",
    "detectron2.modeling.ResNet.make_default_stages",
    "detectron2.modeling.ResNet.make_stage",
    "detectron2.solver.build.get_default_optimizer_params",
)
# A `$` may only start a reference to another key: resolvers such as ${oc.env:HOME} run code.
PLAIN_TEXT = re.compile(r"([^$]|\$\{\.*\w+(\.\w+)*\})*")
HINT = " (--trusted-config, or `trusted` in Python, allows it if you trust the author)"


def argument_parser() -> argparse.ArgumentParser:
    """Detectron2's argument parser, with own data, --trusted-config and a free port by default."""
    parser = default_argument_parser(EPILOG)
    add_arguments(parser)
    add_trust_option(parser)
    parser.set_defaults(dist_url="auto", datasets=None)
    return parser


def add_trust_option(parser: argparse.ArgumentParser) -> None:
    """Add --trusted-config."""
    parser.add_argument(
        "--trusted-config",
        action="store_true",
        help="let a YAML config call any function, as a .py config can: only for authors you "
        "trust. By default it may call parts of detectors, data sets and optimizers alone",
    )


def configure(args: argparse.Namespace) -> DictConfig:
    """Return the config of a command line: the file, then own data, then the overrides.

    Args:
        args: of `argument_parser`. Own data is checked once and kept in `args.datasets`, which
            spawned processes receive.

    Raises:
        ConfigError: if the file, an option or an override is wrong, or the file is not trusted.
        DataError: if own data is wrong.
    """
    cfg = _read(args.config_file, args.trusted_config)
    if args.datasets is None:
        classes = OmegaConf.select(cfg, "dataloader.train.dataset.classes")
        args.datasets = own_datasets(args, classes)
    use(cfg, args.datasets)
    apply_overrides(cfg, args.opts)
    return cfg


def load_config(path: str, overrides: Sequence[str] = (), trusted: bool = False) -> DictConfig:
    """Read a config file and apply overrides to it.

    Args:
        path: a LazyConfig file, `.py`, or the `config.yaml` of a run.
        overrides: `key=value` in Hydra's syntax; `+key=value` adds a key, or replaces a value by
            one of another type.
        trusted: allow a YAML config to call any function.

    Raises:
        ConfigError: if the file is missing, cannot be parsed, lacks a required key or is not
            trusted, or if an override has an unknown key or a value of the wrong type.
    """
    cfg = _read(path, trusted)
    apply_overrides(cfg, overrides)
    return cfg


def build(node: Any, key: str) -> Any:
    """Instantiate a part of a config.

    Args:
        node: the part.
        key: its key in the config, named in errors.

    Raises:
        ConfigError: if a constructor refuses its arguments.
        SamdetrError: as raised by the part itself, e.g. a `DataError`.
    """
    try:
        return instantiate(node)
    except (SamdetrError, ModuleNotFoundError):  # clear without the key, e.g. a missing extra
        raise
    except (AssertionError, ImportError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"{key} cannot be built: {reason}") from error


def _read(path: str, trusted: bool) -> DictConfig:
    if not PathManager.isfile(path):
        raise ConfigError(f"--config-file {path!r} is not a file")
    if not path.endswith((".py", ".yaml", ".yml")):
        raise ConfigError(f"--config-file {path!r} must be a .py or .yaml file")
    try:
        cfg = LazyConfig.load(path) if trusted or path.endswith(".py") else read_yaml(path)
    except (SyntaxError, yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"--config-file {path} cannot be read: {reason}") from error
    lacking = [key for key in REQUIRED if OmegaConf.select(cfg, key, default=NOWHERE) is NOWHERE]
    if lacking:
        raise ConfigError(
            f"{path} lacks {', '.join(lacking)}; configs/common/ has parts to import them from"
        )
    for name in set(cfg.train) - {*TRAIN, *OPTIONAL}:  # others are allowed, misspellings are not
        if near := difflib.get_close_matches(name, TRAIN + OPTIONAL, 1, 0.8):
            raise ConfigError(f"{path}: train.{name} is unknown, the nearest is train.{near[0]}")
    return cfg


def apply_overrides(cfg: DictConfig, overrides: Sequence[str]) -> None:
    """Apply overrides to a config in place; see `load_config`."""
    for text in overrides:
        if text.startswith("--"):
            raise ConfigError(f"{text} must stand before the overrides")
        try:
            override = OverridesParser.create().parse_override(text)
        except (HydraException, ValueError) as error:
            raise ConfigError(f"override {text!r} is not of the form key=value: {error}") from error
        if override.is_delete() or override.is_sweep_override():
            raise ConfigError(f"override {text!r} must set one value: key=value, key=[a,b]")
        if override.is_add():
            OmegaConf.update(cfg, override.key_or_group, override.value())
        else:
            _set(cfg, override.key_or_group, override.value())


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
    """Refuse a key that is missing in the config, unless it is an argument of the call there."""
    parent, _, name = key.rpartition(".")
    arguments, takes_any = _arguments(OmegaConf.select(cfg, parent) if parent else None)
    # `**kwargs` are usually passed on, but a close match is still a misspelling.
    if name in arguments or takes_any and not difflib.get_close_matches(name, arguments, 1, 0.8):
        return
    known = [*_keys(OmegaConf.to_container(cfg)), *(f"{parent}.{x}" for x in arguments)]
    nearest = difflib.get_close_matches(key, known, 1, 0.0)
    raise ConfigError(
        f"override {key!r}: the config has no such key, the nearest is {nearest[0]!r} "
        f"(+{key}=... adds a new one)"
    )


def _arguments(node: Any) -> tuple[list[str], bool]:
    """Names of the arguments of a `_target_`, and whether it has `**kwargs`."""
    target = node.get("_target_") if isinstance(node, DictConfig) else None
    target = locate(target) if isinstance(target, str) else target
    if not callable(target):
        return [], False
    parameters = inspect.signature(target).parameters.values()
    names = [x.name for x in parameters if x.kind in (x.POSITIONAL_OR_KEYWORD, x.KEYWORD_ONLY)]
    takes_any = any(x.kind is x.VAR_KEYWORD for x in parameters)
    return [*names, *(str(name) for name in node if name not in names)], takes_any


def _keys(node: Any, prefix: str = "") -> Iterator[str]:
    """Dotted keys of nested dicts and lists, groups included."""
    items = node.items() if isinstance(node, Mapping) else enumerate(node)
    for name, value in items:
        yield f"{prefix}{name}"
        if isinstance(value, Mapping | list | tuple):
            yield from _keys(value, f"{prefix}{name}.")


def _like(old: Any, new: Any, key: str) -> Any:
    """Return `new` if it has the type of `old`; 1e3 counts as an integer, null has every type."""
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


def read_yaml(path: str) -> DictConfig:
    """Read a YAML config of an author who is not trusted.

    Raises:
        ConfigError: if it holds a tag, a resolver or a `_target_` outside the allow-list.
    """
    with PathManager.open(path) as file:
        content = yaml.load(file, ConfigLoader)
    if not isinstance(content, dict):
        raise ConfigError(f"--config-file {path} cannot be read: expected keys and values")
    try:
        _check(content, "")
        return OmegaConf.create(content, flags={"allow_objects": True})
    except (ConfigError, OmegaConfBaseException) as error:
        raise ConfigError(f"--config-file {path}: {error}") from error


def find(name: Any) -> Any:
    """Return the class or function of that name, if a YAML config may call it.

    Raises:
        ConfigError: if not, or if there is none.
    """
    if not isinstance(name, str) or not name.startswith(PACKAGES):
        raise ConfigError(f"{name!r} is not in {', '.join(PACKAGES)}{HINT}")
    try:
        found = locate(name)
    except Exception as error:  # whatever an import raises
        raise ConfigError(f"{name!r} cannot be found: {error}") from error
    # `samdetr.data.loader.os.system` is reachable too: the object's own module decides.
    own = f"{getattr(found, '__module__', '')}."
    part = inspect.isclass(found) and own.startswith(PACKAGES) and not own.startswith(UNSAFE)
    if not part and found not in map(locate, FUNCTIONS):
        raise ConfigError(f"{name!r} is not among the parts that a YAML config may call{HINT}")
    return found


def _check(value: Any, key: str) -> None:
    """Check every text and every call below a key."""
    if isinstance(value, str) and not PLAIN_TEXT.fullmatch(value):
        raise ConfigError(f"{key} is {value!r}: `$` may only start a reference, ${{key}}{HINT}")
    if isinstance(value, dict):
        if "_target_" in value:
            find(value["_target_"])
        # Detectron2's configurable functions read proposal files, which are pickles, from a `cfg`.
        if "_target_" in value and "cfg" in value:
            raise ConfigError(f"{key}.cfg: a call in YAML cannot be given a whole config{HINT}")
    if isinstance(value, dict | list | tuple | set):
        for name, item in value.items() if isinstance(value, dict) else enumerate(value):
            _check(item, f"{key}.{name}".lstrip("."))


class ConfigLoader(yaml.SafeLoader):
    """Loader for plain data and the tags that Detectron2 writes: tuples, classes, `ShapeSpec`."""


def _named(loader: ConfigLoader, name: str, node: yaml.Node) -> Any:
    if not inspect.isclass(found := find(name)):  # its caller's arguments would be unchecked
        raise ConfigError(f"{name!r} is a function, and only a class can be a value{HINT}")
    return found


PYTHON = "tag:yaml.org,2002:python/"
ConfigLoader.add_multi_constructor(f"{PYTHON}name:", _named)
ConfigLoader.add_constructor(
    f"{PYTHON}tuple", lambda loader, node: tuple(loader.construct_sequence(node, deep=True))
)
ConfigLoader.add_constructor(
    f"{PYTHON}object:{ShapeSpec.__module__}.{ShapeSpec.__qualname__}",
    lambda loader, node: ShapeSpec(**loader.construct_mapping(node, deep=True)),
)
