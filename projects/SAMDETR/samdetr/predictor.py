"""Detection on images as they come: files, folders, Pillow's images and arrays.

Units: boxes are `x0, y0, x1, y1` in pixels of the image that was handed in.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from detectron2.data import transforms as T
from detectron2.data.detection_utils import convert_PIL_to_numpy
from detectron2.structures import Instances
from omegaconf import DictConfig
from PIL import Image

from . import model_zoo
from .data import ImageError, convert_image, read_image
from .engine import ConfigError
from .engine.building import build as build_part
from .inputs import image_files
from .metadata import metadata_of
from .model_zoo.zoo import build

Source: TypeAlias = str | os.PathLike[str] | Image.Image | np.ndarray
"""An image: its file, an image of Pillow, or an array, (H, W, 3) uint8 RGB or (H, W) uint8 grey."""


class Prediction(NamedTuple):
    """What was found in an image."""

    source: Any  # as it was handed in
    image: np.ndarray  # (H, W, 3) uint8 RGB
    instances: Instances  # pred_boxes, scores (descending), pred_classes; on the CPU


class Predictor:
    """A trained detector that reads, resizes and batches images itself.

        predictor = Predictor("mini/sam_detr_smca")
        instances = predictor("picture.jpg")

    Args:
        config: name in the zoo, file (a config or the `config.yaml` of a run), or loaded config.
        checkpoint: file or URL; None for the one that the package has for the name, "" for random
            weights.
        device: such as "cpu"; None for the config's, a GPU if there is one.
        threshold: lowest score of a detection.
        batch_size: images at a time. Those of other sizes are padded to the largest, which changes
            scores a little, as in evaluation.
        overrides: `key=value`, for a config that is not loaded yet.
        trusted_config: if a config in YAML may call anything; a `.py` is a program and always may.

    Attributes:
        model: the detector, in evaluation mode.
        metadata: of the config's test set, `thing_classes` among them where they are known.

    Raises:
        ConfigError: if there is no such config, override or device, if the config is not to be
            trusted, if no checkpoint is known, or if `threshold` or `batch_size` cannot be.
        CheckpointError: if the checkpoint is not there or does not fit.
    """

    def __init__(
        self,
        config: str | os.PathLike[str] | DictConfig,
        checkpoint: str | os.PathLike[str] | None = None,
        device: str | None = None,
        threshold: float = 0.5,
        batch_size: int = 1,
        overrides: Sequence[str] = (),
        trusted_config: bool = False,
    ):
        if not 0 <= threshold <= 1:
            raise ConfigError(f"threshold is {threshold}, expected 0 to 1")
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}, expected 1 or more")
        cfg = config
        if not isinstance(cfg, DictConfig):
            cfg = model_zoo.load_any(cfg, overrides, trusted_config)
        if checkpoint is None:
            checkpoint = _shipped_checkpoint(config)
        self.threshold = threshold
        self.batch_size = batch_size
        self.metadata = metadata_of(cfg)
        mapper = build_part(cfg.dataloader.test.mapper, "dataloader.test.mapper")
        self._augmentations: T.AugmentationList = mapper.augmentations
        self._format: str = mapper.image_format
        self.model = build(cfg, os.fspath(checkpoint), device).eval()

    def __call__(
        self, images: Source | Iterable[Source]
    ) -> Instances | list[Instances] | dict[str, Instances]:
        """What is found in images.

        Args:
            images: one image; several, or an array of several; or a folder. See `Source`.

        Returns:
            Instances with `pred_boxes`, `scores` and `pred_classes`, on the CPU, in the size of the
            image as `stream` says: of one image those, of several a list, of a folder a dict by
            file.

        Raises: as `stream`.
        """
        if isinstance(images, str | os.PathLike) and os.path.isdir(images):
            return {str(x.source): x.instances for x in self.stream(image_files([images]))}
        if isinstance(images, np.ndarray) and images.ndim == 4:
            images = list(images)
        if isinstance(images, str | os.PathLike | Image.Image | np.ndarray):
            return next(self.stream([images])).instances
        return [x.instances for x in self.stream(images)]

    def stream(
        self, images: Iterable[Source], on_error: Callable[[Source, ImageError], None] | None = None
    ) -> Iterator[Prediction]:
        """What is found in images, of which no more than a batch is kept.

        The image of a file is the one that viewers show, turned as its EXIF block says; one of
        Pillow and an array are taken as they are.

        Args:
            images: any number.
            on_error: called with an image that cannot be read, and the error; the others follow.
                Without it the error is raised.

        Raises:
            ImageError: if an image cannot be read; `samdetr.data.read_image` says what can.
            TypeError, ValueError: if an image is of another type or shape than `Source` says.
        """
        read = self._read(images, on_error)
        while batch := list(islice(read, self.batch_size)):
            yield from self._detect(batch)

    def _read(
        self, images: Iterable[Source], on_error: Callable[[Source, ImageError], None] | None
    ) -> Iterator[tuple[Source, np.ndarray]]:
        for source in images:
            try:
                pixels = to_rgb(source)
            except ImageError as error:
                if on_error is None:
                    raise
                on_error(source, error)
                continue
            yield source, pixels

    def _detect(self, batch: list[tuple[Source, np.ndarray]]) -> list[Prediction]:
        with torch.no_grad():
            outputs = self.model([self._model_input(image) for _, image in batch])
        found = [x["instances"].to("cpu") for x in outputs]
        kept = [x[x.scores >= self.threshold] for x in found]
        return [Prediction(*pair, x) for pair, x in zip(batch, kept)]

    def _model_input(self, image: np.ndarray) -> dict[str, Any]:
        """As the config's test mapper gives it; detections are scaled to `height` and `width`."""
        augmented = T.AugInput(convert_PIL_to_numpy(Image.fromarray(image), self._format))
        self._augmentations(augmented)
        pixels = torch.as_tensor(np.ascontiguousarray(augmented.image.transpose(2, 0, 1)))
        return {"image": pixels, "height": image.shape[0], "width": image.shape[1]}


def to_rgb(source: Source) -> np.ndarray:
    """The (H, W, 3) uint8 RGB pixels of an image.

    Raises: as `Predictor.stream`.
    """
    if isinstance(source, str | os.PathLike):
        return read_image(os.fspath(source))
    if isinstance(source, Image.Image):
        return convert_image(source)
    if not isinstance(source, np.ndarray):
        raise TypeError(
            f"an image is a {type(source).__name__}, expected a path, an image of Pillow or an "
            "array"
        )
    shape = source.shape
    fits = len(shape) == 2 or len(shape) == 3 and shape[2] == 3
    if not fits or source.dtype != np.uint8 or not source.size:
        raise ValueError(
            f"an image is an array {shape} of {source.dtype}, expected (H, W, 3) in RGB or (H, W), "
            "of uint8"
        )
    return convert_image(Image.fromarray(np.ascontiguousarray(source)))


def _shipped_checkpoint(config: str | os.PathLike[str] | DictConfig) -> str:
    named = not isinstance(config, DictConfig) and not os.path.isfile(config)
    path = model_zoo.get_checkpoint(os.fspath(config)) if named else None
    if path is None:
        what = "a loaded config" if isinstance(config, DictConfig) else os.fspath(config)
        raise ConfigError(
            f"the package has no checkpoint for {what}: name the file or URL of a trained one"
        )
    return path
