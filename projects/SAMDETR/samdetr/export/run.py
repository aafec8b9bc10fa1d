"""A whole export: from a detector, or its config, to files that were compared with it.

Sizes: of images, (height, width) in pixels.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import torch
from detectron2.config import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn

from .. import __version__
from ..checkpoint import Checkpointer
from ..data import ResizeShortestEdge
from ..data.datasets import metadata_of
from ..engine import load_config
from ..engine.config import build
from ..errors import DisagreementError, ExportError
from ..modeling import SAMDETR
from .agreement import Difference, Pairs
from .formats import Source, format_of
from .graph import INPUTS, OUTPUTS, DetectionGraph, NormalisedInputs, detect
from .traceable import check_model

TRACED_SIZES = ((160, 224), (144, 200))  # 160 and 224 are no two equal numbers at any stride
MIN_SIZE = 65  # a map of one cell is a case of its own; the largest stride is 64
CHECKED_SHAPES = ((480, 640), (640, 480), (640, 640))  # of pictures, before they are resized


class Settings(NamedTuple):
    """How to export.

    Fields:
        preprocessing: "inside" of the graph or "outside", a key of `INPUTS`.
        top_k: the same for picking the best detections, a key of `OUTPUTS`.
        any_batch: if the number of images shall be free, else it is 1.
        sizes: at which to compare.
    """

    preprocessing: str = "inside"
    top_k: str = "inside"
    any_batch: bool = True
    sizes: Sequence[tuple[int, int]] = CHECKED_SHAPES


DEFAULT = Settings()


class Check(NamedTuple):
    """One comparison of a file with the model."""

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
    """Export the model of a config; `settings.sizes` may be empty for those the config suggests.

    Args:
        config_file, overrides, trusted: as in `engine.load_config`.
        weights: checkpoint; "" leaves the random weights of `train.seed`, or of seed 0.
        paths, settings, report: as in `export_model`.

    Raises:
        ConfigError, CheckpointError: if the config or the checkpoint cannot be used.
        ExportError, OSError: as `export_model`.
    """
    _check_paths(paths)
    cfg = load_config(config_file, overrides, trusted)
    resize = resizing(cfg)
    if not settings.sizes:
        settings = settings._replace(sizes=[resized(x, resize) for x in CHECKED_SHAPES])
    torch.manual_seed(max(cfg.train.seed, 0))
    model = build(cfg.model, "model").eval()
    Checkpointer(model).load(weights)
    description = {"resize": resize, "classes": class_names(cfg)}
    return export_model(model, paths, settings, description, report)


def export_model(
    model: nn.Module,
    paths: Sequence[str | Path],
    settings: Settings = DEFAULT,
    description: Mapping[str, Any] | None = None,
    report: Callable[[Check], Any] = print,
) -> list[Check]:
    """Export a detector on the CPU; a path is written only if its file agrees with the model.

    Args:
        model: a `SAMDETR` in evaluation mode.
        paths: files to write; the suffix says the format, see `FORMATS`.
        settings: how.
        description: what to say in the file beside what is known of the model: `resize`, with
            `short_edge` and `max_size`, and `classes`, their names.
        report: is called with each comparison.

    Returns:
        The comparisons.

    Raises:
        ExportError: if the model or a path cannot be exported.
        DisagreementError: if a file finds something else than the model.
        OSError: if a path cannot be written.
    """
    _check_paths(paths)
    inputs, outputs = INPUTS[settings.preprocessing], OUTPUTS[settings.top_k]
    detector = check_model(model)
    graph = DetectionGraph(detector, inputs(detector), outputs(detector)).eval()
    facts = {**describe(detector, settings), **(description or {})}
    example = graph.inputs.collect(detector, [random_image(x) for x in TRACED_SIZES])
    source = Source(graph, example, settings.any_batch, facts)
    cases = [[size] for size in settings.sizes]
    if settings.any_batch and len(cases) > 1:
        cases.append([*settings.sizes[:2]])
    checks = []
    with ExitStack() as stack:
        # Made before the work begins, where the files will be.
        folders = [
            stack.enter_context(tempfile.TemporaryDirectory(dir=Path(x).parent)) for x in paths
        ]
        for path, folder in zip(map(Path, paths), folders):
            written = Path(folder, path.name)
            format_of(path).write(source, written)
            for check in compare(detector, graph, written, cases):
                check = check._replace(path=path)
                report(check)
                if check.difference:
                    raise DisagreementError(f"{check}: too much, it is not written")
                checks.append(check)
            os.replace(written, path)
    return checks


@torch.no_grad()
def compare(
    model: SAMDETR,
    graph: DetectionGraph,
    path: Path,
    cases: Sequence[Sequence[tuple[int, int]]],
) -> Iterator[Check]:
    """Run a file and the model on images of noise.

    Args:
        model: as it is used, with all its fast ways.
        graph: what the file was made of, for what its inputs and outputs mean.
        path: the file.
        cases: sizes of the images of each batch.
    """
    run = format_of(path).load(path)
    for sizes in cases:
        images = [random_image(x) for x in sizes]
        found = run(*graph.inputs.collect(model, images))
        boxes, scores = detect(model, *NormalisedInputs.collect(model, images))
        extent = torch.tensor([[width, height] * 2 for height, width in sizes])
        yield Check(path, [*sizes], graph.outputs.compare(found, Pairs(boxes, scores, extent)))


def random_image(size: tuple[int, int]) -> Tensor:
    """(3, H, W) uint8, the same for the same size."""
    generator = torch.Generator().manual_seed(size[0] * 10_000 + size[1])
    return torch.randint(256, (3, *size), dtype=torch.uint8, generator=generator)


def describe(model: SAMDETR, settings: Settings) -> dict[str, Any]:
    """What whoever runs the file must know of the model."""
    return {
        "samdetr": __version__,
        "preprocessing": settings.preprocessing,
        "top_k": settings.top_k,
        "input_format": model.input_format,
        "pixel_mean": model.pixel_mean.flatten().tolist(),
        "pixel_std": model.pixel_std.flatten().tolist(),
        "size_divisibility": model.backbone.size_divisibility,
        "detections_per_image": model.detections_per_image,
        "resize": None,
        "classes": [],
    }


def resizing(cfg: DictConfig) -> dict[str, int] | None:
    """`short_edge` and `max_size` that the config's test images are resized to, if they are."""
    augmentations = cfg.dataloader.test.mapper.get("augmentations", [])
    for augmentation in map(instantiate, augmentations):
        if isinstance(augmentation, ResizeShortestEdge) and augmentation.short_edge_length[0]:
            return {
                "short_edge": augmentation.short_edge_length[0],
                "max_size": augmentation.max_size,
            }
    return None


def resized(size: tuple[int, int], resize: Mapping[str, int] | None) -> tuple[int, int]:
    """A size after resizing as by `resizing`."""
    if resize is None:
        return size
    edges = resize["short_edge"], resize["max_size"]
    height, width = ResizeShortestEdge.get_output_shape(*size, *edges)
    return height, width


def class_names(cfg: DictConfig) -> list[str]:
    """Names of the classes of the config's test set, if they are known without reading it."""
    return [*metadata_of(cfg).get("thing_classes", [])]


def _check_paths(paths: Sequence[str | Path]) -> None:
    """Raise ExportError unless all can be written, as far as can be known."""
    if not paths:
        raise ExportError("there must be an output, got none")
    for path in map(Path, paths):
        format_of(path)
        if not path.parent.is_dir() or path.is_dir():
            raise ExportError(f"output {str(path)!r} must be a file in a folder that exists")
