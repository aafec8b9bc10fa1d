"""Throughput of a config's training loader, on its own data or on synthetic photographs."""

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
QUALITY = 90  # files with the noise below have about COCO's mean size of 160 kB
# Cells of noise along the height of a photograph, and their amplitude: large shapes, fine grain.
OCTAVES = ((3, 60.0), (12, 40.0), (48, 20.0), (240, 20.0))
PREFETCH = 2  # samples that each worker of torch's DataLoader prefetches


class Loading:
    """A training loader that reads a number of batches per call.

    Args:
        loader: config of an endless loader, such as `dataloader.train`.
        batches: batches per call.
        ahead: batches that workers prefetch while other contestants run.
    """

    def __init__(self, loader: DictConfig, batches: int, ahead: int):
        self.iterator = iter(instantiate(loader))
        self.batches = batches
        self.ahead = ahead
        self.images = 0  # of the last call

    def prepare(self) -> None:
        """Consume the prefetched batches."""
        for _ in range(self.ahead):
            next(self.iterator)

    def __call__(self) -> None:
        self.images = sum(len(next(self.iterator)) for _ in range(self.batches))


@dataclass(frozen=True)
class Source:
    """Data source and loader settings of a run.

    Args:
        batches: batches per round.
        batch: images per batch; None for the config's.
        workers: worker processes; None for the config's.
        photographs: size of a synthetic data set; 0 for the config's own data.
    """

    batches: int = 8
    batch: int | None = None
    workers: int | None = None
    photographs: int = 0

    def dataset(self, num_classes: int) -> AbstractContextManager[str | None]:
        """Context that yields the name of the synthetic data set, or None for the configs' data."""
        return photographs(self.photographs, num_classes) if self.photographs else nullcontext()

    def loading(self, cfg: DictConfig, dataset: str | None = None) -> Loading:
        """Build the training loader of a config with this source's settings.

        Raises:
            ConfigError: if the loader does not have a key that is to be replaced.
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
                raise ConfigError(f"dataloader.train has no {key}, which is to be {value!r}")
            OmegaConf.update(loader, key, value)
        return Loading(loader, self.batches, made_ahead(loader))


def made_ahead(loader: DictConfig) -> int:
    """Return the number of batches that workers prefetch."""
    samples = PREFETCH * loader.get("num_workers", 0)
    target = loader.get("_target_")
    target = locate(target) if isinstance(target, str) else target
    # With aspect-ratio grouping Detectron2's workers prefetch images, which are batched later.
    if target is not build_train_loader and loader.get("aspect_ratio_grouping", True):
        return math.ceil(samples / loader.get("total_batch_size", 1))
    return samples


@contextmanager
def photographs(count: int, num_classes: int) -> Iterator[str]:
    """Register a synthetic data set inside the context; yields its name."""
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
    """Write noise that costs a JPEG decoder as much as photographs do, with boxes, in COCO format.

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
    """Draw smooth noise of several scales on grey."""
    width, height = size
    pixels = np.full((height, width, 3), 128.0)
    for cells, part in OCTAVES:
        noise = random.integers(0, 256, (cells, math.ceil(cells * width / height), 3), np.uint8)
        smooth = Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)
        pixels += part * (np.asarray(smooth) / 127.5 - 1)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def boxes(random: np.random.Generator, count: int, size: tuple[int, int]) -> Sequence[list[float]]:
    """Draw boxes (x, y, w, h) inside an image, in pixels."""
    sides = random.uniform(0.05, 0.5, (count, 2))
    corner = random.uniform(0, 1 - sides)
    return (np.concatenate([corner, sides], axis=1) * (size * 2)).tolist()
