"""Images per second of a config's training loader, on its own data or on made-up photographs."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.utils.registry import locate
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from samdetr.data import build_train_loader
from samdetr.engine import ConfigError

PHOTOGRAPHS = "benchmark_photographs"
SIZE = (640, 480)  # width and height of most images of COCO
BOXES = 7  # per image of COCO
QUALITY = 90  # with the noise below a file is about as large as COCO's mean of 160 kB
# Cells of noise along the height of a photograph, and their part in it: large shapes, fine grain.
OCTAVES = ((3, 60.0), (12, 40.0), (48, 20.0), (240, 20.0))
PREFETCH = 2  # samples that torch's loader has each worker make ahead


class Loading:
    """Batches of a training loader, a number of them at a call.

    Args:
        loader: endless batches, as `dataloader.train` makes them.
        batches: of a call.
        ahead: batches that workers have made while other contestants had their turn.
    """

    def __init__(self, loader: DictConfig, batches: int, ahead: int):
        self.iterator = iter(instantiate(loader))
        self.batches = batches
        self.ahead = ahead
        self.images = 0  # of the last call

    def prepare(self) -> None:
        """Use up what was made ahead."""
        for _ in range(self.ahead):
            next(self.iterator)

    def __call__(self) -> None:
        self.images = sum(len(next(self.iterator)) for _ in range(self.batches))


@dataclass(frozen=True)
class Source:
    """Where loaders of a run get their images from, and how.

    Args:
        batches: of a turn.
        batch, workers: images of a batch, and processes; None for the config's.
        photographs: images of a made-up data set in place of the config's; 0 for the config's.

    Raises:
        ConfigError: if a value cannot work.
    """

    batches: int = 8
    batch: int | None = None
    workers: int | None = None
    photographs: int = 0

    def __post_init__(self) -> None:
        for name, least in (("batches", 1), ("batch", 1), ("workers", 0), ("photographs", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name} is {value}, must be {least} or more")

    def dataset(self, num_classes: int) -> AbstractContextManager[str | None]:
        """For as long as the context lasts, a made-up data set; None for the configs' own."""
        return photographs(self.photographs, num_classes) if self.photographs else nullcontext()

    def loading(self, cfg: DictConfig, dataset: str | None = None) -> Loading:
        """The training loader of a config.

        Raises:
            ConfigError: if the loader lacks what is to be replaced.
        """
        loader = cfg.dataloader.train
        values = {
            "total_batch_size": self.batch,
            "num_workers": self.workers,
            "dataset.names": dataset,
        }
        for key, value in values.items():
            if value is None:
                continue
            if OmegaConf.select(loader, key) is None:
                raise ConfigError(f"dataloader.train has no {key}, which was to be {value!r}")
            OmegaConf.update(loader, key, value)
        return Loading(loader, self.batches, made_ahead(loader))


def made_ahead(loader: DictConfig) -> int:
    """Batches that workers make while nobody asks."""
    samples = PREFETCH * loader.get("num_workers", 0)
    target = loader.get("_target_")
    target = locate(target) if isinstance(target, str) else target
    # Detectron2's workers make single images where these are grouped by shape afterwards.
    if target is not build_train_loader and loader.get("aspect_ratio_grouping", True):
        return math.ceil(samples / loader.get("total_batch_size", 1))
    return samples


@contextmanager
def photographs(count: int, num_classes: int) -> Iterator[str]:
    """A data set that is registered, and on disk, for as long as the context lasts.

    Returns:
        Its name.
    """
    with tempfile.TemporaryDirectory() as folder:
        register_coco_instances(
            PHOTOGRAPHS, {}, *write_photographs(Path(folder), count, num_classes)
        )
        try:
            yield PHOTOGRAPHS
        finally:
            DatasetCatalog.remove(PHOTOGRAPHS)
            MetadataCatalog.remove(PHOTOGRAPHS)


def write_photographs(
    folder: Path, count: int, num_classes: int, size: tuple[int, int] = SIZE
) -> tuple[str, str]:
    """Write noise that looks like photographs to a JPEG decoder, with boxes, in COCO's format.

    Args:
        size: (width, height) in pixels.

    Returns:
        The annotation file and the image folder.
    """
    random = np.random.default_rng(0)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(count):
        name = f"{number:06}.jpg"
        photograph(random, size).save(folder / name, quality=QUALITY)
        images.append({"id": number, "file_name": name, "width": size[0], "height": size[1]})
        for box in boxes(random, BOXES, size):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": int(random.integers(num_classes)) + 1,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
    categories = [{"id": i + 1, "name": str(i)} for i in range(num_classes)]
    contents = {"images": images, "annotations": annotations, "categories": categories}
    file = folder / "annotations.json"
    file.write_text(json.dumps(contents))
    return str(file), str(folder)


def photograph(random: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Smooth noise of several scales on grey."""
    width, height = size
    pixels = np.full((height, width, 3), 128.0)
    for cells, part in OCTAVES:
        noise = random.integers(0, 256, (cells, math.ceil(cells * width / height), 3), np.uint8)
        smooth = Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)
        pixels += part * (np.asarray(smooth) / 127.5 - 1)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def boxes(random: np.random.Generator, count: int, size: tuple[int, int]) -> Sequence[list[float]]:
    """Boxes (x, y, w, h) inside an image."""
    sides = random.uniform(0.05, 0.5, (count, 2))
    corner = random.uniform(0, 1 - sides)
    return (np.concatenate([corner, sides], axis=1) * (size * 2)).tolist()
