"""Reading configs: command lines, LazyConfig files and overrides.

Differences from Detectron2's `LazyConfig`:

* An override of an unknown key is an error that names the nearest key. `LazyConfig.apply_overrides`
  adds the key to the config, where nothing reads it.
* The value of an override that Hydra's grammar cannot read is the text as typed, such as a path.
* A YAML config is read by `safe_yaml`. A `.py` config is a program and runs as one, and overrides
  are the user's own.
"""

from __future__ import annotations

import argparse
import difflib
import inspect
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import yaml
from detectron2.config import LazyConfig, instantiate
from detectron2.engine import default_argument_parser
from detectron2.utils.file_io import PathManager
from detectron2.utils.registry import locate
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..data.command_line import add_arguments, own_datasets, use
from ..errors import ConfigError, SamdetrError
from .channels import follow_channels
from .safe_yaml import read_yaml

EPILOG = """
Examples:
  train_net.py --config-file configs/mini/sam_detr_smca.py train.output_dir=output/mini
  train_net.py --config-file configs/coco/sam_detr_r50_smca_12ep.py --num-gpus 8
  train_net.py --config-file output/mini/config.yaml --resume train.max_iter=4000
  train_net.py --config-file output/mini/config.yaml --eval-only \\
      train.init_checkpoint=output/mini/model_best.pth
  train_net.py --config-file configs/coco/sam_detr_r50_smca_12ep.py \\
      --train-json train.json --train-images images --val-json val.json --val-images images \\
      train.init_checkpoint=sam_detr.pth train.max_iter=2000 train.output_dir=output/own
  train_net.py --config-file configs/coco/sam_detr_pp_convnext_t_smca_dn_12ep.py \\
      --data mydata --test night train.epochs=24 train.ema.enabled=True train.accumulate=4
"""
PARTS = ("model", "dataloader.train", "dataloader.test", "dataloader.evaluator", "optimizer")
TRAIN = [  # required keys of `train`
    "output_dir", "init_checkpoint", "max_iter", "seed", "device", "amp", "clip_grad", "ddp",
    "checkpointer", "eval_period", "best_metric", "log_period",
]  # fmt: skip
OPTIONAL = [  # keys of `train` that configs of older runs lack
    "epochs", "eval_epochs", "checkpoint_epochs", "accumulate", "freeze", "ema", "early_stop",
    "eval_loss", "eval_pictures", "writers", "hooks", "init_reset", "deterministic",
    "skip_nonfinite", "compile", "cudnn_benchmark",
]  # fmt: skip
REQUIRED = (*PARTS, "lr_multiplier", *(f"train.{name}" for name in TRAIN))
SECTIONS = tuple(dict.fromkeys(key.partition(".")[0] for key in REQUIRED))
# Keys that are read by name; those of all other groups are arguments of calls.
READ = {
    "train": TRAIN + OPTIONAL,
    "train.amp": ["enabled", "dtype"],
    "train.clip_grad": ["max_norm", "norm_type"],
    "train.ema": ["enabled", "decay", "warmup", "period"],
    "train.early_stop": ["patience", "min_gain"],
    "dataloader": ["train", "test", "evaluator", "more_tests"],
}
KNOWN = {"optimizer.base_batch_size", *(f"{group}.{x}" for group in READ for x in READ[group])}
OVERRIDE = re.compile(rf"([+~]+\w+|{'|'.join(SECTIONS)}|\w+\.\w+)(\.\w+)*=")
# The types that may replace a value of the config. bool is first: it is a subclass of int.
KINDS: tuple[tuple[type, tuple[type, ...], str], ...] = (
    (bool, (bool,), "true or false"),
    (int, (int,), "an integer"),
    (float, (int, float), "a number"),
    (str, (str,), "text"),
    (ListConfig, (list,), "a list, [a,b]"),
    (DictConfig, (), "a group of keys"),
)
BROKEN = (yaml.YAMLError, OmegaConfBaseException)
FACTORS = "optimizer.params.factors"
NOWHERE = object()  # result of looking up a missing key


def argument_parser() -> argparse.ArgumentParser:
    """Detectron2's argument parser, with own data, --trusted-config and a free port by default."""
    parser = default_argument_parser(EPILOG)
    add_arguments(parser)
    add_trust_option(parser)
    parser.set_defaults(dist_url="auto", datasets=None)
    return parser


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse a command line, by default that of this process: options and overrides in any order."""
    parser = argument_parser()
    words, overrides = split_overrides(sys.argv[1:] if arguments is None else arguments)
    args = parser.parse_args(words)
    # Detectron2's `opts` takes all that follows the first override, options included.
    while options := [i for i, word in enumerate(args.opts) if word.startswith("-")]:
        overrides += args.opts[: options[0]]
        words, args.opts = args.opts[options[0] :], []
        args = parser.parse_args(words, args)
    args.opts = overrides + args.opts
    return args


def split_overrides(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return options and, apart, the overrides that an option of several values would take."""
    words, overrides = list[str](), list[str]()
    for before, word in pairwise(["", *(x for x in arguments if x != "--")]):
        is_override = OVERRIDE.match(word) and not before.startswith("-")  # the option's value
        (overrides if is_override else words).append(word)
    return words, overrides


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
    cfg = load_config(args.config_file, trusted=args.trusted_config)
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
        overrides: `key=value` in Hydra's syntax, or with the text as typed where Hydra's grammar
            cannot read it or the config has text. `+key=value` adds a key, or replaces a value by
            one of another type.
        trusted: allow a YAML config to call any function.

    Raises:
        ConfigError: if the file is missing, cannot be parsed, lacks a required key or is not
            trusted, or if an override has an unknown key or a value of the wrong type.
    """
    if not PathManager.isfile(path):
        raise ConfigError(f"--config-file {path!r} is not a file")
    try:
        if path.endswith(".py"):
            cfg = _read_python(path)
        else:
            cfg = LazyConfig.load(path) if trusted else read_yaml(path)
    except (SyntaxError, UnicodeDecodeError, RecursionError, *BROKEN) as error:
        line = error.__cause__ if isinstance(error, SyntaxError) else None  # Detectron2 omits it
        reason = " ".join(f"{error} {line or ''}".split())
        raise ConfigError(f"--config-file {path} cannot be read: {reason}") from error
    if lacking := [x for x in REQUIRED if OmegaConf.select(cfg, x, default=NOWHERE) is NOWHERE]:
        raise ConfigError(
            f"{path} lacks {', '.join(lacking)}; configs/common/ has parts to import them from"
        )
    apply_overrides(cfg, overrides)
    return cfg


def build(node: Any, key: str) -> Any:
    """Instantiate a part of a config.

    Raises:
        ConfigError: if a constructor refuses its arguments; names `key`, the part's in the config.
        SamdetrError: as raised by the part itself, e.g. a `DataError`.
    """
    try:
        return instantiate(node)
    except (SamdetrError, ModuleNotFoundError):  # clear without the key, e.g. a missing extra
        raise
    except (AssertionError, ImportError, TypeError, ValueError, OmegaConfBaseException) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"{key} cannot be built: {reason}") from error


def _read_python(path: str) -> DictConfig:
    """Run a `.py` config and return its sections, with the variables that they refer to."""
    cfg = LazyConfig.load(path)
    for name in set(cfg) - {*SECTIONS, *_references(cfg)}:
        del cfg[name]
    for key, value in _items(OmegaConf.to_container(cfg)):
        if isinstance(value, os.PathLike):  # Detectron2 and YAML expect a string
            OmegaConf.update(cfg, key, os.fspath(value))
    return cfg


def _references(cfg: DictConfig) -> set[str]:
    """Return the names that occur in any `${...}`."""
    texts = re.findall(r"\$\{[^}]*", str(OmegaConf.to_container(cfg)))
    return set(re.findall(r"\w+", " ".join(texts)))


def unread_keys(cfg: DictConfig) -> dict[str, str]:
    """Return the keys of `train` and `dataloader` that nothing reads, each with the nearest one.

    A key that another one refers to, as `${train.note}`, is read.
    """
    used, unread, known = _references(cfg), [], sorted(KNOWN)
    for key, _ in _items(OmegaConf.to_container(cfg)):
        group, _, name = key.rpartition(".")
        if group in READ and key not in known and name not in used:
            unread.append(key)
        elif not key.startswith(tuple(f"{x}." for x in unread)):
            known.append(key)
    return {key: _nearest(key, known) for key in unread}


def _nearest(key: str, known: Sequence[str]) -> str:
    return difflib.get_close_matches(key, known, 1, 0.0)[0]


def apply_overrides(cfg: DictConfig, overrides: Sequence[str]) -> None:
    """Apply overrides to a config in place, and `follow_channels`; see `load_config`."""
    for text in overrides:
        key, equals, typed = text.partition("=")
        if not equals or key.startswith("~"):
            raise ConfigError(f"override {text!r} must set one value: key=value, key=[a,b]")
        try:
            if key.startswith("+"):
                OmegaConf.update(cfg, key.lstrip("+"), _value(typed))
            else:
                old = OmegaConf.select(cfg, key, default=NOWHERE)
                _set(cfg, key, _value(typed, old))
            OmegaConf.select(cfg, key.lstrip("+"))  # a reference to nowhere is an error
        except OmegaConfBaseException as error:
            raise ConfigError(f"override {text!r}: {str(error).partition(chr(10))[0]}") from error
    follow_channels(cfg)


def _value(typed: str, old: Any = None) -> Any:
    """Return the value of an override: as Hydra's grammar reads it, or the text as typed.

    It is the text where the grammar finds no single value, and where the config has text, except
    for null and for what is in quotes.
    """
    try:
        override = OverridesParser.create().parse_override(f"key={typed}")
        value = typed if override.is_sweep_override() else override.value()
    except (HydraException, ValueError):
        quoted_keys = typed.startswith("{") and not isinstance(old, str)
        return yaml.safe_load(typed) if quoted_keys else typed
    quoted = isinstance(value, str) and typed.startswith(("'", '"'))
    return typed if isinstance(old, str) and value is not None and not quoted else value


def _set(cfg: DictConfig, key: str, value: Any) -> None:
    old = OmegaConf.select(cfg, key, default=NOWHERE)
    if isinstance(old, DictConfig) and isinstance(value, dict):
        for name, part in value.items():
            if key == FACTORS:  # whose keys are any prefixes, with dots
                old[name] = part
            else:
                _set(cfg, f"{key}.{name}", part)
        return
    if old is NOWHERE:
        _check_argument(cfg, key)
    else:
        value = _like(old, value, key)
    OmegaConf.update(cfg, key, value)


def _check_argument(cfg: DictConfig, key: str) -> None:
    """Refuse a key that is missing in the config, unless it is read or an argument of a call."""
    parent, _, name = key.rpartition(".")
    node: Any = OmegaConf.select(cfg, parent) if parent else None
    target = node.get("_target_") if isinstance(node, DictConfig) else None
    target = locate(target) if isinstance(target, str) else target
    parameters = inspect.signature(target).parameters if callable(target) else {}
    if key in KNOWN or name in parameters:
        return
    # `**kwargs` are usually passed on, but a close match is still a misspelling.
    takes_any = any(x.kind is x.VAR_KEYWORD for x in parameters.values())
    if takes_any and not difflib.get_close_matches(name, [*parameters, *node], 1, 0.8):
        return
    known = [key for key, _ in _items(OmegaConf.to_container(cfg))]
    known += [f"{parent}.{x}" for x in parameters]
    raise ConfigError(
        f"override {key!r}: the config has no such key, the nearest is {_nearest(key, known)!r} "
        f"(+{key}=... adds a new one)"
    )


def _items(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of nested dicts and lists, groups included."""
    items = node.items() if isinstance(node, Mapping) else enumerate(node)
    for name, value in items:
        yield f"{prefix}{name}", value
        if isinstance(value, Mapping | list | tuple):
            yield from _items(value, f"{prefix}{name}.")


def _like(old: Any, new: Any, key: str) -> Any:
    """Return `new` if it has the type of `old`; 1e3 counts as an integer, null has every type."""
    if new is None or isinstance(new, float) and key.endswith("epochs"):  # also fractions
        return new
    if isinstance(old, int) and isinstance(new, float) and new.is_integer():
        new = int(new)
    for kind, accepted, wanted in KINDS:
        if isinstance(old, kind):
            if type(new) not in accepted:
                raise ConfigError(f"override {key}={new!r}: the config has {wanted} there")
            break
    return new
