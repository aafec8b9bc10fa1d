"""Detection on image files, folders, PIL images and arrays.

Units: boxes are `x0, y0, x1, y1` in pixels of the image that was passed in.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from detectron2.config import instantiate
from detectron2.data import transforms as T
from detectron2.data.detection_utils import convert_PIL_to_numpy
from detectron2.structures import Instances
from omegaconf import DictConfig
from PIL import Image

from . import model_zoo
from .data import ImageError, convert_image, read_image
from .data.bands import BANDS, composite, read_bands, scaled_bands
from .data.images import IMAGE_SUFFIXES
from .errors import ConfigError, InputError
from .model_zoo import load
from .modeling import SAMDETR

PathLike: TypeAlias = str | os.PathLike[str]
Source: TypeAlias = PathLike | Image.Image | np.ndarray
"""An image: a file, a PIL image or an array, (H, W, 3) uint8 RGB or (H, W) uint8 or uint16 grey.

For models of 2, 4 or more channels a file or an array as for `samdetr.data.read_bands`.
"""

DTYPES = ("float32", "float16", "bfloat16", "float64")


class Prediction(NamedTuple):
    """Detections in one image."""

    source: Any  # the image as it was passed in
    image: np.ndarray  # (H, W, 3) uint8 RGB, of other channels a composite
    instances: Instances  # pred_boxes, scores (descending), pred_classes; on the CPU


class Predictor:
    """A trained detector that reads, resizes and batches images.

        predictor = Predictor("mini/sam_detr_smca")
        instances = predictor("picture.jpg")

    Args:
        config: name in the zoo, file (a config or the `config.yaml` of a run), or loaded config.
        checkpoint: file or URL; None for the one shipped with the package for this name, "" for
            random weights.
        device: such as "cpu"; None for the config's, which is a GPU if there is one.
        threshold: lowest score of a detection.
        batch_size: images per forward pass. Images of different sizes are padded to the largest,
            which changes scores slightly, as in evaluation.
        overrides: `key=value`, for a config that is not loaded yet.
        trusted_config: allow a YAML config to call any function; a `.py` config always may.
        dtype: of the weights, one of `DTYPES` or such a `torch.dtype`; others than float32 are for
            models of class `SAMDETR`.

    Attributes:
        model: the detector, in evaluation mode.
        metadata: of the model's data set, with `thing_classes` and the ids of categories where
            they are known: those that the run has kept in the checkpoint, or else the config's.

    Raises:
        ConfigError: if the config, an override, `threshold`, `batch_size` or `dtype` is invalid,
            or if the package has no checkpoint for the config.
        CheckpointError: if the checkpoint cannot be read or does not fit the model.
    """

    def __init__(
        self,
        config: PathLike | DictConfig,
        checkpoint: PathLike | None = None,
        device: str | None = None,
        threshold: float = 0.5,
        batch_size: int = 1,
        overrides: Sequence[str] = (),
        trusted_config: bool = False,
        dtype: str | torch.dtype = "float32",
    ):
        if not 0 <= threshold <= 1:
            raise ConfigError(f"threshold is {threshold}, expected 0 to 1")
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}, expected 1 or more")
        name = str(dtype).removeprefix("torch.")
        if name not in DTYPES:
            raise ConfigError(f"dtype is {name}, expected one of {', '.join(DTYPES)}")
        cfg = config
        if not isinstance(cfg, DictConfig):
            cfg = model_zoo.load_any(cfg, overrides, trusted_config)
        if checkpoint is None:
            checkpoint = _shipped_checkpoint(config)
        self.threshold = threshold
        self.batch_size = batch_size
        mapper = instantiate(cfg.dataloader.test.mapper)
        self._augmentations: T.AugmentationList = mapper.augmentations
        self._format: str = mapper.image_format
        self._white: float | None = getattr(mapper, "white", None)  # absent in Detectron2's own
        model, self.metadata = load(cfg, os.fspath(checkpoint), device)
        if name != "float32" and not isinstance(model, SAMDETR):
            raise ConfigError(f"dtype is {name}, but {type(model).__name__} needs float32")
        self.model = model.eval().to(getattr(torch, name))

    def __call__(
        self, images: Source | Iterable[Source]
    ) -> Instances | list[Instances] | dict[str, Instances]:
        """Detect objects in images.

        Args:
            images: one image (see `Source`), several of them, a (B, H, W, 3) array, or a folder.

        Returns:
            For one image, `Instances` on the CPU with `pred_boxes`, `scores` and `pred_classes`;
            for several a list of them; for a folder a dict by file.

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
        """Detect objects in any number of images, of which one batch is held in memory.

        A file is rotated as its EXIF orientation says; PIL images and arrays are used as they are.

        Args:
            images: see `Source`.
            on_error: called with each image that cannot be read and its error, and the stream goes
                on; without it the error is raised.

        Raises:
            ImageError: if an image cannot be read; see `samdetr.data.read_image`.
            TypeError, ValueError: if an image has another type or shape than `Source` says.
        """
        pixels = self._read(images, on_error)
        while batch := list(islice(pixels, self.batch_size)):
            yield from self._detect(batch)

    def _read(
        self, images: Iterable[Source], on_error: Callable[[Source, ImageError], None] | None
    ) -> Iterator[tuple[Source, np.ndarray]]:
        for source in images:
            try:
                pixels = self._pixels(source)
            except ImageError as error:
                if on_error is None:
                    raise
                on_error(source, error)
                continue
            yield source, pixels

    def _pixels(self, source: Source) -> np.ndarray:
        """Return the (H, W, C) pixels of an image, RGB unless the model takes bands."""
        if self._format != BANDS:
            return to_rgb(source, self._white)
        if isinstance(source, str | os.PathLike):
            return read_bands(source, self._white)
        return scaled_bands(np.asarray(source), self._white)

    def _detect(self, batch: list[tuple[Source, np.ndarray]]) -> list[Prediction]:
        with torch.no_grad():
            outputs = self.model([self._model_input(image) for _, image in batch])
        found = [x["instances"].to("cpu") for x in outputs]
        kept = [x[x.scores >= self.threshold] for x in found]
        return [Prediction(source, composite(y), x) for (source, y), x in zip(batch, kept)]

    def _model_input(self, image: np.ndarray) -> dict[str, Any]:
        """Apply the config's test augmentations; the model scales boxes to `height`, `width`."""
        converted = image
        if self._format != BANDS:
            converted = convert_PIL_to_numpy(Image.fromarray(image), self._format)
        augmented = T.AugInput(converted)
        self._augmentations(augmented)
        pixels = torch.as_tensor(np.ascontiguousarray(augmented.image.transpose(2, 0, 1)))
        return {"image": pixels, "height": image.shape[0], "width": image.shape[1]}


def to_rgb(source: Source, white: float | None = None) -> np.ndarray:
    """Return the (H, W, 3) uint8 RGB pixels of an image; for `white` see `DetectionMapper`.

    Raises: as `Predictor.stream`.
    """
    if isinstance(source, str | os.PathLike):
        return read_image(os.fspath(source), white=white)
    if isinstance(source, Image.Image):
        return convert_image(source, white)
    if not isinstance(source, np.ndarray):
        raise TypeError(
            f"an image is a {type(source).__name__}, expected a path, a PIL image or an array"
        )
    shape, kind = source.shape, source.dtype
    grey = len(shape) == 2 and kind in (np.uint8, np.uint16)
    if not source.size or not (grey or shape[2:] == (3,) and kind == np.uint8):
        raise ValueError(
            f"an image is an array {shape} of {kind}, expected (H, W, 3) of uint8 in RGB, or (H, W)"
        )
    return convert_image(Image.fromarray(np.ascontiguousarray(source)), white)


def image_files(
    inputs: Sequence[PathLike],
    suffixes: Collection[str] = IMAGE_SUFFIXES,
    skipped: Collection[PathLike] = (),
) -> list[Path]:
    """List the images among files, folders and patterns such as "photos/*.jpg".

    Args:
        inputs: files, folders, which are searched with the folders below them, and patterns.
        suffixes: of the files that are picked from a folder.
        skipped: folders that are not searched if they are below another, like hidden ones.

    Returns:
        Each file once, in the order of `inputs`; those of a folder or pattern sorted by name.

    Raises:
        InputError: if an input does not exist or contains no image.
    """
    known = frozenset(Path(x).resolve() for x in skipped)
    found = [file for text in inputs for file in _expand(os.fspath(text), suffixes, known)]
    return list(dict.fromkeys(found))


def _expand(text: str, suffixes: Collection[str], skipped: frozenset[Path]) -> list[Path]:
    path = Path(text)
    if path.is_dir():
        found = [x for x in _below(path, skipped) if x.suffix.lower() in suffixes]
        if not found:
            raise InputError(f"no file in folder {text} or below ends with {', '.join(suffixes)}")
        return found
    if path.exists():
        return [path]
    found = sorted(x for x in map(Path, glob.glob(text, recursive=True)) if not x.is_dir())
    if not found:
        problem = "no file matches" if glob.has_magic(text) else "there is no file or folder"
        raise InputError(f"{problem} {text}")
    return found


def _below(folder: Path, skipped: frozenset[Path]) -> Iterator[Path]:
    skipped |= {folder.resolve()}  # a link to it would lead in circles
    for path in sorted(x for x in folder.iterdir() if not x.name.startswith(".")):
        if not path.is_dir():
            yield path
        elif path.resolve() not in skipped:
            yield from _below(path, skipped)


def _shipped_checkpoint(config: PathLike | DictConfig) -> str:
    named = not isinstance(config, DictConfig) and not os.path.isfile(config)
    path = model_zoo.get_checkpoint(os.fspath(config)) if named else None
    if path is None:
        name = "a loaded config" if isinstance(config, DictConfig) else os.fspath(config)
        raise ConfigError(
            f"the package has no checkpoint for {name}: pass the file or URL of a trained one"
        )
    return path
