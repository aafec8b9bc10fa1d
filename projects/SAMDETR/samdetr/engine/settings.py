"""The values of `train` and of the loaders: what each may be."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch.nn.parallel import DistributedDataParallel

from ..errors import ConfigError
from .calls import argument, is_near

PRECISIONS = {"bfloat16": torch.bfloat16, "float16": torch.float16}  # of `train.amp.dtype`


class Rule(NamedTuple):
    """What a value has to be."""

    holds: Callable[[Any], bool]
    wanted: str
    optional: bool = False  # if a config may be without the key


def whole(least: float = -math.inf, optional: bool = False) -> Rule:
    """An integer from `least` on."""
    limit = "" if least == -math.inf else f", {least:g} or more"
    return Rule(lambda x: type(x) is int and x >= least, f"an integer{limit}", optional)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


TEXT = Rule(lambda x: isinstance(x, str), "text")
FLAG = Rule(lambda x: isinstance(x, bool), "true or false")
POSITIVE = Rule(lambda x: _is_number(x) and x > 0, "a number above 0, or inf")
CALL = Rule(lambda x: isinstance(x, Mapping) and "_target_" in x, "a call, with a _target_")
RATE = Rule(lambda x: _is_number(x) and 0 <= x < math.inf, "a finite number, 0 or more", True)
ORDER = Rule(lambda x: x in ["RGB", "BGR"], "RGB or BGR", True)
ORDERS = ("dataloader.train.mapper.image_format", "dataloader.test.mapper.image_format")
RULES = {
    "model": CALL,
    "model.input_format": ORDER,
    "dataloader.train": CALL,
    "dataloader.test": CALL,
    "dataloader.evaluator": CALL,
    "optimizer": CALL,
    "optimizer.params": CALL,
    "lr_multiplier": CALL,
    "train.output_dir": Rule(lambda x: isinstance(x, str) and bool(x), "the path of a folder"),
    "train.init_checkpoint": TEXT,
    "train.max_iter": whole(1),
    "train.seed": whole(-1),
    "train.deterministic": FLAG._replace(optional=True),
    "train.device": TEXT,
    "train.amp.enabled": FLAG,
    "train.amp.dtype": Rule(lambda x: x in [*PRECISIONS], f"one of {', '.join(PRECISIONS)}"),
    "train.clip_grad.max_norm": POSITIVE,
    "train.clip_grad.norm_type": POSITIVE,
    "train.checkpointer.period": whole(1),
    "train.checkpointer.max_to_keep": Rule(
        lambda x: x is None or type(x) is int and x >= 1, "an integer, 1 or more, or null", True
    ),
    "train.skip_nonfinite": whole(0, True),
    "train.eval_period": whole(0),
    "train.best_metric": TEXT,
    "train.log_period": whole(1),
    "train.compile": Rule(
        lambda x: isinstance(x, list) and all(isinstance(y, str) for y in x),
        "a list of parts of the model",
        True,
    ),
    "train.cudnn_benchmark": FLAG._replace(optional=True),
    "optimizer.lr": RATE,
    "dataloader.train.total_batch_size": whole(1, True),
    "dataloader.train.num_workers": whole(0, True),
    "dataloader.train.max_unreadable": whole(0, True),
    "dataloader.train.mapper.is_train": Rule(lambda x: x is True, "true", True),
    "dataloader.test.num_workers": whole(0, True),
    "dataloader.test.batch_size": whole(1, True),
    **dict.fromkeys(ORDERS, ORDER),
    "lr_multiplier.warmup_length": Rule(
        lambda x: _is_number(x) and 0 <= x <= 1, "a part of the run, 0 to 1", True
    ),
}
# Groups that are handed over as they are, to what takes these keys alone.
GROUPS = ("train.amp", "train.clip_grad", "train.checkpointer")
DDP = "train.ddp"
DDP_KEYS = {*inspect.signature(DistributedDataParallel).parameters, "fp16_compression"}
NOWHERE = object()  # what is looked up is not in the config


def check_settings(content: Mapping[str, Any], processes: int = 1) -> None:
    """Check the keys of `train` and the numbers of the loaders.

    Args:
        content: of a config, resolved.
        processes: that share a batch.

    Raises:
        ConfigError: names the key, its value and what would be right.
    """
    _check_names(content)
    for key, rule in RULES.items():
        value = _look_up(content, key)
        if value is NOWHERE and not rule.optional:
            raise ConfigError(f"the config lacks {key}: {rule.wanted}")
        if value is not NOWHERE and not rule.holds(value):
            raise ConfigError(f"{key} is {value!r}, expected {rule.wanted}")
    _check_orders(content)
    train = content["train"]
    check_device(train["device"], "train.device")
    scaled = train["amp"]["enabled"] and train["amp"]["dtype"] == "float16"
    if scaled and torch.device(train["device"]).type == "cpu":
        raise ConfigError("train.amp.dtype is 'float16', which needs a GPU; a CPU has bfloat16")
    size = _look_up(content, "dataloader.train.total_batch_size")
    if size is not NOWHERE and size % processes:
        raise ConfigError(
            f"dataloader.train.total_batch_size is {size}, which {processes} processes cannot "
            f"share: expected a multiple of {processes}"
        )


def _check_orders(content: Mapping[str, Any]) -> None:
    """Check that images are read as the model takes them, if it says how."""
    wanted = argument(content["model"], "input_format", "model")
    for key in ORDERS:
        given = _look_up(content, key)
        if wanted is not None and given not in (NOWHERE, wanted):
            raise ConfigError(f"{key} is {given!r}, but model.input_format {wanted!r}")


def check_device(name: str, what: str = "device") -> None:
    """Check that torch knows a device, and that there are as many GPUs, if there is one.

    Raises:
        ConfigError: if it is none of this machine.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"{what} {name!r} is none: expected cpu, cuda or cuda:0") from error
    count = torch.cuda.device_count()
    if device.type == "cuda" and 0 < count <= (device.index or 0):
        raise ConfigError(f"{what} {name!r}, but the last GPU here is cuda:{count - 1}")


def _check_names(content: Mapping[str, Any]) -> None:
    for group in ("train", *GROUPS, DDP):
        given = _look_up(content, group)
        if not isinstance(given, Mapping):
            raise ConfigError(f"{group} is {given!r}, expected a group of keys")
        start = f"{group}."
        known = {x.removeprefix(start).split(".")[0] for x in RULES if x.startswith(start)}
        known |= {"ddp"} if group == "train" else DDP_KEYS if group == DDP else set()
        for name, value in given.items():
            if group == DDP and name in known and not isinstance(value, bool):
                raise ConfigError(f"{group}.{name} is {value!r}, expected true or false")
            if name in known:
                continue
            near = [x for x in sorted(known) if is_near(str(name), x)]
            if near or group != "train":  # to which one may add keys
                hint = f", its nearest is {near[0]!r}" if near else f", but {sorted(known)}"
                raise ConfigError(f"{group}.{name}: there is no such key{hint}")


def _look_up(content: Any, key: str) -> Any:
    for name in key.split("."):
        if not isinstance(content, Mapping) or name not in content:
            return NOWHERE
        content = content[name]
    return content
