"""The values of `train` and of the loaders: what each may be."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import torch
from detectron2.data import build_detection_test_loader
from torch.nn.parallel import DistributedDataParallel

from ..data import DataError, build_train_loader
from ..data.errors import shown
from ..data.loader import check_sampler
from ..errors import ConfigError
from .calls import argument, find_target, is_near

MOST_WORKERS = 1024  # of a loader; each is a process
PRECISIONS = {"bfloat16": torch.bfloat16, "float16": torch.float16}  # of `train.amp.dtype`


class Rule(NamedTuple):
    """What a value has to be."""

    holds: Callable[[Any], bool]
    wanted: str
    optional: bool = False  # if a config may be without the key


def whole(least: float, optional: bool = False, most: float = math.inf) -> Rule:
    """An integer from `least` on, to `most`."""
    limit = f"{least:g} or more" if most == math.inf else f"{least:g} to {most:g}"
    return Rule(lambda x: type(x) is int and least <= x <= most, f"an integer, {limit}", optional)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _is_path(value: Any) -> bool:
    """If a value may name a file: a few characters cannot be in any name."""
    try:
        return isinstance(value, str) and bool(value) and b"\0" not in os.fsencode(value)
    except UnicodeEncodeError:
        return False


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
    "train.output_dir": Rule(_is_path, "the path of a folder"),
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
    "dataloader.train.num_workers": whole(0, True, MOST_WORKERS),
    "dataloader.train.max_unreadable": whole(0, True),
    "dataloader.train.mapper.is_train": Rule(lambda x: x is True, "true", True),
    "dataloader.test.num_workers": whole(0, True, MOST_WORKERS),
    "dataloader.test.batch_size": whole(1, True),
    **dict.fromkeys(ORDERS, ORDER),
    "lr_multiplier.warmup_length": Rule(
        lambda x: _is_number(x) and 0 <= x <= 1, "a part of the run, 0 to 1", True
    ),
}
# Groups that are handed over as they are, to what takes these keys alone.
GROUPS = ("train.amp", "train.clip_grad", "train.checkpointer")
DDP = "train.ddp"
# What `distributed.wrap` and Detectron2 do not give themselves, and a config can say.
DDP_RULES = {
    **{
        name: FLAG
        for name, x in inspect.signature(DistributedDataParallel).parameters.items()
        if isinstance(x.default, bool) or "bool" in str(x.annotation)
    },
    "broadcast_buffers": FLAG,  # without either in some versions of torch
    "bucket_cap_mb": Rule(lambda x: x is None or POSITIVE.holds(x) and x < math.inf, "MiB above 0"),
    "fp16_compression": FLAG,  # Detectron2's
}
OPTIONS = [(f"{DDP}.{name}", x._replace(optional=True)) for name, x in DDP_RULES.items()]
METHODS = ("reset", "process", "evaluate")  # of an evaluator
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
    for key, rule in [*RULES.items(), *OPTIONS]:
        value = _look_up(content, key)
        if value is NOWHERE and not rule.optional:
            raise ConfigError(f"the config lacks {key}: {rule.wanted}")
        if value is not NOWHERE and not rule.holds(value):
            raise ConfigError(f"{key} is {shown(value)}, expected {rule.wanted}")
    _check_orders(content)
    _check_training(content["dataloader"]["train"])
    _check_evaluation(content["dataloader"])
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


def _check_training(loader: Mapping[str, Any]) -> None:
    """Check that the loader has no end, and an order that goes on where a run was interrupted."""
    key = "dataloader.train"
    target = find_target(loader, key)
    if target is build_detection_test_loader:
        raise ConfigError(
            f"{key}._target_ is build_detection_test_loader, whose images end: expected "
            "samdetr.data.build_train_loader"
        )
    call = loader.get("sampler")
    if target is not build_train_loader or not CALL.holds(call):
        return
    sampler = find_target(cast(Mapping[str, Any], call), f"{key}.sampler")
    if inspect.isclass(sampler):
        try:
            check_sampler(sampler)
        except DataError as error:
            raise ConfigError(str(error)) from error


def _check_evaluation(loaders: Mapping[str, Any]) -> None:
    """Check that the evaluator is one, and of the data set that is evaluated."""
    key = "dataloader.evaluator"
    call = loaders["evaluator"]
    target = find_target(call, key)
    if inspect.isclass(target):
        check_evaluator(target, f"{key}._target_")
    evaluated = call.get("dataset_name")
    names = _look_up(loaders, "test.dataset.names")
    names = [names] if isinstance(names, str) else names
    single = isinstance(names, list) and len(names) == 1  # of several, their union has another
    if single and isinstance(evaluated, str) and evaluated != names[0]:
        raise ConfigError(
            f"{key}.dataset_name is {shown(evaluated)}, but dataloader.test.dataset.names "
            f"{shown(names[0])}: figures would be against other images"
        )


def check_evaluator(evaluator: Any, what: str = "dataloader.evaluator") -> None:
    """Check that an evaluator, or a class of them, does what Detectron2's do.

    Raises:
        ConfigError: if it does not.
    """
    several = evaluator if isinstance(evaluator, list) else [evaluator]
    for one in several:
        if not all(callable(getattr(one, method, None)) for method in METHODS):
            name = getattr(one, "__qualname__", type(one).__qualname__)
            raise ConfigError(f"{what} is {name}, expected a DatasetEvaluator of Detectron2")


def check_device(name: str, what: str = "device") -> None:
    """Check that torch can compute on a device of this machine.

    A GPU where there is none at all is left to `build_model`.

    Raises:
        ConfigError: if it cannot, or if there are not as many GPUs.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"{what} {name!r} is none: expected cpu, cuda or cuda:0") from error
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if 0 < count <= (device.index or 0):
            raise ConfigError(f"{what} {name!r}, but the last GPU here is cuda:{count - 1}")
        return
    if device.type == "meta" or device.type == "cpu" and device.index:
        raise ConfigError(f"{what} {name!r} computes nothing: expected cpu, cuda or cuda:0")
    try:
        torch.empty(0, device=device)
    except Exception as error:  # every kind of device has its own
        raise ConfigError(
            f"{what} {name!r} is not there for this torch: expected cpu, cuda or cuda:0"
        ) from error


def _check_names(content: Mapping[str, Any]) -> None:
    for group in ("train", *GROUPS, DDP):
        given = _look_up(content, group)
        if not isinstance(given, Mapping):
            raise ConfigError(f"{group} is {shown(given)}, expected a group of keys")
        start = f"{group}."
        known = {x.removeprefix(start).split(".")[0] for x in RULES if x.startswith(start)}
        known |= {"ddp"} if group == "train" else {*DDP_RULES} if group == DDP else set()
        for name in given:
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
