"""Export of a detector, or of the model of a config, to files that agree with it.

Sizes of images are (height, width) in pixels.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from detectron2.config import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn

from .. import __version__
from ..checkpoint import Checkpointer
from ..data import ResizeShortestEdge
from ..engine import load_config
from ..engine.config import build
from ..errors import DisagreementError, ExportError
from ..metadata import metadata_of
from ..modeling import SAMDETR
from ..modeling.backbone import padding_constraints
from .formats import Runner, Source, format_of
from .graph import (
    INPUTS,
    OUTPUTS,
    DetectionGraph,
    Difference,
    NormalisedInputs,
    Pairs,
    detect,
)

TRACED_SIZES = ((160, 224), (144, 200))  # feature maps of 160 x 224 have no equal sides
MIN_SIZE = 65  # at the largest stride, 64, smaller images have a map of a single row or column
CHECKED_SHAPES = ((480, 640), (640, 480), (640, 640))  # before the images are resized


class Settings(NamedTuple):
    """Options of an export."""

    preprocessing: str = "inside"  # or "outside" of the graph: a key of `INPUTS`
    top_k: str = "inside"  # where the best detections are selected: a key of `OUTPUTS`
    any_batch: bool = True  # leave the number of images free; otherwise it is 1
    sizes: Sequence[tuple[int, int]] = CHECKED_SHAPES  # at which file and model are compared


DEFAULT = Settings()


class Check(NamedTuple):
    """Result of comparing a file with the model on one batch."""

    path: Path
    sizes: list[tuple[int, int]]  # of the images of the batch
    difference: Difference

    def __str__(self) -> str:
        sizes = " and ".join(f"{height}x{width}" for height, width in self.sizes)
        return f"{self.path}, {sizes}: {self.difference}"


def export_config(
    config_file: str,
    overrides: Sequence[str],
    weights: str,
    paths: Sequence[str | Path],
    settings: Settings,
    report: Callable[[Check], Any] = print,
    trusted: bool = False,
) -> list[Check]:
    """Export the model of a config.

    Args:
        config_file, overrides, trusted: as in `engine.load_config`.
        weights: checkpoint; "" keeps random weights, seeded by `train.seed`.
        paths, settings, report: as in `export_model`; without `settings.sizes`, files are compared
            at the sizes to which the config resizes CHECKED_SHAPES.

    Raises:
        ConfigError, CheckpointError: if the config or the checkpoint cannot be used.
        ExportError, OSError: as `export_model`.
    """
    cfg = load_config(config_file, overrides, trusted)
    resize = resizing(cfg)
    if not settings.sizes:
        settings = settings._replace(sizes=[resized(x, resize) for x in CHECKED_SHAPES])
    torch.manual_seed(max(cfg.train.seed, 0))
    model = build(cfg.model, "model").eval()
    metadata = metadata_of(cfg, Checkpointer(model).load(weights))
    ids = metadata.get("thing_dataset_id_to_contiguous_id", {})
    facts = {
        "resize": resize,
        "white": cfg.dataloader.test.mapper.get("white"),
        "classes": [*metadata.get("thing_classes", [])],
        "category_ids": sorted(ids, key=ids.get),
    }
    return export_model(model, paths, settings, facts, report)


def export_model(
    model: nn.Module,
    paths: Sequence[str | Path],
    settings: Settings = DEFAULT,
    description: Mapping[str, Any] | None = None,
    report: Callable[[Check], Any] = print,
) -> list[Check]:
    """Export a detector on the CPU; a file is only kept if it agrees with the model.

    Returns the comparisons of each file with the model, with which `report` is called too.

    Args:
        model: a `SAMDETR` in evaluation mode.
        paths: files to write, whose suffixes select the formats (see `FORMATS`).
        description: entries to add to the file's description: `resize`, with `short_edge` and
            `max_size`; `white`, as of the mapper; `classes`, a list of names; and `category_ids`,
            the data set's own ids of them.

    Raises:
        ExportError: if the model or a path cannot be exported.
        DisagreementError: if the detections of a file differ from the model's.
        OSError: if a path cannot be written.
    """
    for path in paths:
        format_of(Path(path))  # before the work begins
    detector = _check_model(model)
    inputs, outputs = INPUTS[settings.preprocessing], OUTPUTS[settings.top_k]
    graph = DetectionGraph(detector, inputs(detector), outputs(detector)).eval()
    example = graph.inputs.collect(
        detector, [random_image(x, len(detector.pixel_mean)) for x in TRACED_SIZES]
    )
    facts = {**describe(detector, settings), **(description or {})}
    source = Source(graph, example, settings.any_batch, facts)
    return [
        check for path in paths for check in _export(detector, source, Path(path), settings, report)
    ]


def _export(
    model: SAMDETR, source: Source, path: Path, settings: Settings, report: Callable[[Check], Any]
) -> list[Check]:
    """Write a file beside `path`, compare it, and move it to `path` if it agrees."""
    batches = [[size] for size in settings.sizes]
    if settings.any_batch and len(batches) > 1:
        batches.append([*settings.sizes[:2]])
    checks = []
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        written, file_format = Path(folder, path.name), format_of(path)
        file_format.write(source, written)
        run = file_format.load(written)
        for sizes in batches:
            try:
                check = Check(path, sizes, compare(model, source.graph, run, sizes))
            except (AssertionError, RuntimeError) as error:  # of what a backbone made constant
                raise ExportError(
                    f"{path} fails for images of other sizes than those it was traced with, as "
                    f"window attention does; not written ({type(error).__name__})"
                ) from error
            checks.append(check)
            report(check)
            if check.difference:
                raise DisagreementError(f"{check}, more than the tolerance: not written")
        os.replace(written, path)
    return checks


@torch.no_grad()
def compare(
    model: SAMDETR, graph: DetectionGraph, run: Runner, sizes: Sequence[tuple[int, int]]
) -> Difference:
    """Compare a loaded file with the model, which runs its default kernels, on random images."""
    images = [random_image(x, len(model.pixel_mean)) for x in sizes]
    found = run(*graph.inputs.collect(model, images))
    expected = detect(model, *NormalisedInputs.collect(model, images))
    extent = torch.tensor([[width, height] * 2 for height, width in sizes])
    return graph.outputs.compare(found, Pairs(*expected, extent))


def random_image(size: tuple[int, int], channels: int = 3) -> Tensor:
    """Return a (C, H, W) uint8 image, always the same for the same size."""
    generator = torch.Generator().manual_seed(size[0] * 10_000 + size[1])
    return torch.randint(256, (channels, *size), dtype=torch.uint8, generator=generator)


def describe(model: SAMDETR, settings: Settings) -> dict[str, Any]:
    """Return the facts about a model that are needed to run its file."""
    return {
        "samdetr": __version__,
        "preprocessing": settings.preprocessing,
        "top_k": settings.top_k,
        "input_format": model.input_format,
        "pixel_mean": model.pixel_mean.flatten().tolist(),
        "pixel_std": model.pixel_std.flatten().tolist(),
        "size_divisibility": padding_constraints(model.backbone)["size_divisibility"],
        "detections_per_image": model.detections_per_image,
        "resize": None,
        "classes": [],
        "category_ids": [],
    }


def resizing(cfg: DictConfig) -> dict[str, int] | None:
    """Return `short_edge` and `max_size` of the config's test images; None if not resized."""
    for augmentation in map(instantiate, cfg.dataloader.test.mapper.get("augmentations", [])):
        if isinstance(augmentation, ResizeShortestEdge) and augmentation.short_edge_length[0]:
            edge = augmentation.short_edge_length[0]
            return {"short_edge": edge, "max_size": augmentation.max_size}
    return None


def resized(size: tuple[int, int], resize: Mapping[str, int] | None) -> tuple[int, int]:
    """Return a size after `resizing`."""
    return ResizeShortestEdge.get_output_shape(*size, *resize.values()) if resize else size


def _check_model(model: nn.Module) -> SAMDETR:
    if not isinstance(model, SAMDETR):
        raise ExportError(f"the model is a {type(model).__name__}, must be a SAMDETR")
    for key in ("inference_dtype", "dtype"):
        name = str(getattr(model, key)).removeprefix("torch.")
        if name != "float32":
            raise ExportError(f"model.{key} is {name}, must be float32 for an export")
    return model
