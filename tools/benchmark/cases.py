"""Contestants of the benchmark: a detector built from a config, its inputs, and the work timed."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from samdetr.checkpoint import Checkpointer
from samdetr.engine import ConfigError, build_model, build_optimizer, compile_parts, load_config

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
MIN_SIZE = 32  # the largest stride
BOX_SIDES = (0.05, 0.5)  # of the ground truth, as fractions of the image
# Config keys that hold the number of classes: in our configs, and in those of Detectron2's models.
NUM_CLASSES = ("dataloader.train.dataset.num_classes", "model.num_classes")


@dataclass(frozen=True)
class Setting:
    """Settings shared by all contestants of a run.

    Args:
        mode: "forward" or "step".
        size: (height, width) of the images, pixels.
        batch: images per forward.
        boxes: ground-truth boxes per image.
        device: "cpu" or "cuda".
        dtype: "float32", or "bfloat16" for autocast.
        weights: checkpoint loaded into the model of every config; "" for random weights.
        seed: of weights, images and boxes.

    Raises:
        ConfigError: if a value is out of range or the device is not available.
    """

    mode: str = "forward"
    size: tuple[int, int] = (800, 1066)
    batch: int = 1
    boxes: int = 8
    device: str = "cpu"
    dtype: str = "float32"
    weights: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, choices in (("mode", self.mode, WORK), ("dtype", self.dtype, DTYPES)):
            if value not in choices:
                raise ConfigError(f"{name} is {value!r}, must be one of {', '.join(choices)}")
        if min(self.size) < MIN_SIZE:
            raise ConfigError(
                f"size is {self.size[0]}x{self.size[1]}, must be at least {MIN_SIZE}x{MIN_SIZE}"
            )
        if self.device not in ("cpu", "cuda"):
            raise ConfigError(
                f"device is {self.device!r}, must be cpu or cuda (CUDA_VISIBLE_DEVICES selects "
                "the GPU)"
            )
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ConfigError(f"device is {self.device!r}, but torch finds no GPU: set it to cpu")

    def autocast(self) -> torch.autocast:
        """Return the autocast context for `dtype`."""
        kind, dtype = torch.device(self.device).type, DTYPES[self.dtype]
        return torch.autocast(kind, dtype, enabled=dtype is not torch.float32)


@dataclass(frozen=True)
class Case:
    """A contestant as plain data, which another process can build as well.

    Args:
        config: LazyConfig file.
        overrides: "key=value" for that config.
        against: "MODULE:FUNCTION" of a function that maps the config's model to the detector to
            measure in its place, with the same inputs and outputs.
        compiled: names of the submodules to `torch.compile`.
        trusted: see `engine.load_config`.
    """

    config: str
    overrides: tuple[str, ...] = ()
    against: str = ""
    compiled: tuple[str, ...] = ()
    trusted: bool = False

    @property
    def name(self) -> str:
        """Name in tables and JSON."""
        path = Path(self.config).resolve()
        name = self.against or f"{path.parent.name}/{path.stem}"
        return f"{name}, compiled" if self.compiled else name

    def load(self, device: str) -> DictConfig:
        """Load the config and set its device."""
        cfg = load_config(self.config, self.overrides, self.trusted)
        cfg.train.device = device
        return cfg

    def build(self, setting: Setting) -> tuple[nn.Module, DictConfig]:
        """Build the detector, in training mode; return it with its config.

        Raises:
            ConfigError: if the config, function or submodule does not exist.
            CheckpointError: if `setting.weights` does not fit the model.
        """
        cfg = self.load(setting.device)
        torch.manual_seed(setting.seed)
        model = build_model(cfg)
        if setting.weights:
            Checkpointer(model).load(setting.weights)
        if self.against:
            model = find_function(self.against)(model)
        compile_parts(model, self.compiled)
        return model.train(), cfg


def find_function(name: str) -> Callable[[nn.Module], nn.Module]:
    """Import the function named by "MODULE:FUNCTION".

    Raises:
        ConfigError: if it cannot be imported.
    """
    module, _, function = name.partition(":")
    try:
        found: Callable[[nn.Module], nn.Module] = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"--against {name!r} must be MODULE:FUNCTION of something to import: {error}"
        ) from error
    return found


def count_classes(cfg: DictConfig) -> int:
    """Return the number of classes of a config, or 1 if it has none of the known keys."""
    found = (OmegaConf.select(cfg, key) for key in NUM_CLASSES)
    return next((int(x) for x in found if x), 1)


def make_batch(setting: Setting, num_classes: int) -> list[dict[str, Any]]:
    """Generate random images and ground truth in the format of Detectron2's loaders.

    They depend on `setting.seed` alone, not on the global generators.
    """
    random = torch.Generator().manual_seed(setting.seed)
    height, width = setting.size
    batch = []
    for _ in range(setting.batch):
        image = torch.randint(256, (3, height, width), generator=random, dtype=torch.uint8)
        smallest, largest = BOX_SIDES
        sides = smallest + (largest - smallest) * torch.rand(setting.boxes, 2, generator=random)
        corner = (1 - sides) * torch.rand(setting.boxes, 2, generator=random)
        corners = torch.cat([corner, corner + sides], dim=1) * Tensor([width, height] * 2)
        classes = torch.randint(num_classes, (setting.boxes,), generator=random)
        instances = Instances(setting.size, gt_boxes=Boxes(corners), gt_classes=classes)
        batch.append({"image": image, "height": height, "width": width, "instances": instances})
    return batch


class Forward:
    """Inference on a batch, in evaluation mode and without gradients.

    Args:
        model: the detector.
        cfg: its config.
        batch: inputs in Detectron2's format.
        setting: of the run.
    """

    def __init__(
        self, model: nn.Module, cfg: DictConfig, batch: list[dict[str, Any]], setting: Setting
    ):
        self.model = model.eval()
        self.batch = batch
        self.setting = setting

    def __call__(self) -> Any:
        with torch.inference_mode(), self.setting.autocast():
            return self.model(self.batch)


class TrainingStep:
    """A training iteration of `samdetr.engine.Trainer`, phase by phase, without logging.

    The learning rate is 0: the optimizer does the same work, every round sees the same weights, and
    a detector that would diverge on noise can be measured.

    Args: see `Forward`.
    """

    def __init__(
        self, model: nn.Module, cfg: DictConfig, batch: list[dict[str, Any]], setting: Setting
    ):
        self.model = model.train()
        self.batch = batch
        self.setting = setting
        self.clip_grad: Mapping[str, Any] = cfg.train.clip_grad
        self.optimizer = build_optimizer(cfg.optimizer, model)
        for group in self.optimizer.param_groups:
            group["lr"] = 0.0

    def __call__(self) -> None:
        loss = self.loss()
        self.backward(loss)
        self.clip()
        self.update()

    def loss(self) -> Tensor:
        """Clear the gradients, run the forward, and return the sum of the losses."""
        self.optimizer.zero_grad()
        with EventStorage(), self.setting.autocast():  # Detectron2's models write to a storage
            losses: dict[str, Tensor] = self.model(self.batch)
        return torch.stack([*losses.values()]).sum()

    def backward(self, loss: Tensor) -> None:
        """Compute the gradients of all parameters."""
        loss.backward()

    def clip(self) -> None:
        """Clip the norm of all gradients together."""
        parameters = [x for group in self.optimizer.param_groups for x in group["params"]]
        nn.utils.clip_grad_norm_(parameters, **self.clip_grad)

    def update(self) -> None:
        """Run the optimizer step."""
        self.optimizer.step()


WORK: dict[str, type[Forward] | type[TrainingStep]] = {"forward": Forward, "step": TrainingStep}


def prepare(case: Case, setting: Setting, num_classes: int = 1) -> Forward | TrainingStep:
    """Build the model and inputs of a contestant; return the callable to time.

    Args:
        case: the contestant.
        setting: of the run.
        num_classes: classes of the ground truth.
    """
    model, cfg = case.build(setting)
    return WORK[setting.mode](model, cfg, make_batch(setting, num_classes), setting)
