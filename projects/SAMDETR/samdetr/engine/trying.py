"""Parts of a run, tried on made-up input: what does not fit shows before data is read."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.distributed as dist
from detectron2.data import transforms as T
from detectron2.structures import Boxes, BoxMode, Instances
from fvcore.common.param_scheduler import ParamScheduler
from PIL import Image
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..errors import ConfigError
from ..modeling import SAMDETR
from ..randomness import seeded

TRIED = (64, 64)  # pixels of the image that a model and its mappers are tried on
BOX = (16.0, 16.0, 48.0, 40.0)  # of the object on it, xyxy
ATTEMPTS = 8  # at a mapper
POINTS = 1000  # of a run, at which its schedule is asked


def reason(error: Exception) -> str:
    """What an error says, in one line, and of what kind it is if that tells more."""
    text = " ".join(str(error).split())
    return text if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text}"


def try_schedule(multiplier: Any, max_iter: int) -> None:
    """Ask a schedule for its factors all over the run.

    Raises:
        ConfigError: if it is none of fvcore's, or if a factor is no finite number, or negative.
    """
    if not isinstance(multiplier, ParamScheduler):  # Detectron2 would take it for one of torch's
        raise ConfigError(
            f"lr_multiplier makes a {type(multiplier).__name__}, expected one of "
            "fvcore.common.param_scheduler"
        )
    points = min(POINTS, max_iter)
    for index in range(points):
        where = index * (max_iter - 1) // max(points - 1, 1) / max_iter  # the last is the last
        try:
            factor = float(multiplier(where))
        except Exception as error:
            raise ConfigError(f"lr_multiplier cannot be used: {reason(error)}") from error
        if not 0 <= factor < math.inf:
            raise ConfigError(
                f"lr_multiplier is {factor} at {where:.0%} of the run, expected 0 or more"
            )


def try_mapper(mapper: Any, key: str) -> None:
    """Have a mapper map a small grey image.

    It is augmented, if the mapper says how, by some of the ways that chance may take.

    Raises:
        ConfigError: if augmentations fail, or if what comes out is nothing for a model.
    """
    augment = getattr(mapper, "augmentations", None)
    if augment is None:
        _try_unknown_mapper(mapper, key)
        return
    for attempt in range(ATTEMPTS):
        image = T.AugInput(np.full((*TRIED, 3), 128, np.uint8))
        try:
            with seeded(attempt):
                augment(image)
            size = np.asarray(image.image).shape[:2]
            fits = min(size) > 0
        except Exception as error:
            raise ConfigError(f"{key}.augmentations cannot be used: {reason(error)}") from error
        if not fits:
            raise ConfigError(f"{key}.augmentations make images of {size[0]} x {size[1]} pixels")


def _try_unknown_mapper(mapper: Any, key: str) -> None:
    """Find a mapper that gives no image. It may well need more than the entry made up here."""
    if not callable(mapper):
        raise ConfigError(f"{key} makes a {type(mapper).__name__}, which cannot be called")
    x0, y0, x1, y1 = BOX
    annotation = {"bbox": [x0, y0, x1 - x0, y1 - y0], "bbox_mode": BoxMode.XYWH_ABS}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "grey.png")
        Image.new("RGB", TRIED[::-1], (128, 128, 128)).save(file)
        try:
            with seeded(0):
                mapped = mapper(
                    {
                        "file_name": str(file),
                        "image_id": 1,
                        "height": TRIED[0],
                        "width": TRIED[1],
                        "annotations": [{**annotation, "category_id": 0, "iscrowd": 0}],
                    }
                )
        except Exception:
            return
    if mapped is not None and not (isinstance(mapped, Mapping) and "image" in mapped):
        raise ConfigError(
            f"{key} makes a {type(mapper).__name__}, which gives no 'image': expected a mapper "
            "such as samdetr.data.DetectionMapper"
        )


@torch.no_grad()
def try_model(model: SAMDETR) -> None:
    """Have a model tell its losses of a small image, as it is, on the CPU.

    Its modules are in the mode of evaluation: some normalise over a batch in training, which one
    small image is none of, and some do so on GPUs alone.

    Raises:
        ConfigError: names the innermost module that fails, or a loss that cannot be.
    """
    instances = Instances(TRIED)
    instances.gt_boxes = Boxes(torch.tensor([BOX]))
    instances.gt_classes = torch.zeros(1, dtype=torch.int64)
    image = torch.full((3, *TRIED), 128, dtype=torch.uint8)
    with _left_as_it_is(model), _alone(), seeded(0):
        losses = _run(model, lambda: model.losses([{"image": image, "instances": instances}]))
    if not isinstance(losses, Mapping) or not losses:
        raise ConfigError(
            f"model.criterion ({type(model.criterion).__name__}) gives a "
            f"{type(losses).__name__}, expected losses by name"
        )
    for name, loss in losses.items():
        if not isinstance(loss, Tensor) or loss.ndim:
            raise ConfigError(f"model.criterion gives {name} that is no tensor of one number")
        if not loss.isfinite():
            raise ConfigError(f"model.criterion gives {name}={float(loss)}, expected a finite loss")


def _run(model: nn.Module, call: Callable[[], Any]) -> Any:
    entered: list[str] = []
    hooks = [x for name, y in model.named_modules() for x in _follow(name, y, entered)]
    try:
        return call()
    except Exception as error:
        where = f"the model, in {entered[-1]}" if entered else "the model"
        raise ConfigError(f"the parts of {where}, do not fit: {reason(error)}") from error
    finally:
        for hook in hooks:
            hook.remove()


def _follow(name: str, module: nn.Module, entered: list[str]) -> list[RemovableHandle]:
    """Have a module put its name on the list while it runs."""

    def leave(*_: Any) -> None:
        entered.pop()

    return [
        module.register_forward_pre_hook(lambda *_: entered.append(name)),
        module.register_forward_hook(leave),
    ]


@contextmanager
def _left_as_it_is(model: nn.Module) -> Iterator[None]:
    """Evaluate inside; then put back the modes and the buffers."""
    modes = {module: module.training for module in model.modules()}
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for buffer, value in buffers:
            buffer.copy_(value)


@contextmanager
def _alone() -> Iterator[None]:
    """Let there be one process inside: several may talk by NCCL, which knows no CPU."""
    with patch.object(dist, "is_initialized", return_value=False):
        yield
