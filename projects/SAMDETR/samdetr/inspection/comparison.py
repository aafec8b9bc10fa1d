"""Comparison of trained models on images: from configs and checkpoints to figures and the page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from detectron2.config import instantiate
from detectron2.data import DatasetMapper
from omegaconf import DictConfig

from .. import model_zoo
from ..errors import InputError
from ..model_zoo import load
from ..modeling import SAMDETR
from ..modeling.ops.boxes import corners
from ..predictor import PathLike, image_files
from ..visualize import to_picture
from .drawing import DPI, draw_heads, draw_layers, write_page
from .views import ImageView, best_queries, decoder_layers, observe, same_object, view_query

PAGE = "index.html"


class Contestant(NamedTuple):
    """A trained model and the mapper of its test images."""

    name: str
    cfg: DictConfig
    model: SAMDETR
    mapper: DatasetMapper
    classes: Sequence[str] | None  # names


def load_contestants(
    pairs: Sequence[tuple[str, str]], device: str | None = None, trusted: bool = False
) -> list[Contestant]:
    """Load trained models in evaluation mode.

    Args:
        pairs: a config (file or name in the zoo) and a checkpoint for each model.
        device, trusted: as in `model_zoo.get` and `engine.load_config`.

    Raises:
        ConfigError: if a config cannot be loaded.
        CheckpointError: if a checkpoint is missing or does not fit.
        InputError: if a model has no attention map.
    """
    stems = [Path(config).stem for config, _ in pairs]
    contestants = []
    for (config, checkpoint), stem in zip(pairs, stems):
        cfg = model_zoo.load_any(config, trusted=trusted)
        model, metadata = load(cfg, checkpoint, device)
        decoder_layers(model.eval())  # raises
        name = stem if stems.count(stem) == 1 else f"{stem} {Path(checkpoint).stem}"
        mapper = instantiate(cfg.dataloader.test.mapper)
        classes = metadata.get("thing_classes")
        contestants.append(Contestant(name, cfg, cast(SAMDETR, model), mapper, classes))
    return contestants


def image_records(inputs: Sequence[PathLike]) -> list[dict[str, Any]]:
    """Return dataset entries for image files, folders and patterns.

    Raises:
        InputError: if an input does not exist or has no image, or if the figures of two images
            would have the same file name.
    """
    by_stem: dict[str, Path] = {}
    for file in image_files(inputs):
        other = by_stem.setdefault(file.stem, file)
        if other is not file:
            raise InputError(f"figures of {other} and {file} would have the same name")
    return [{"file_name": str(file)} for file in by_stem.values()]


def inspect(
    contestants: Sequence[Contestant],
    record: dict[str, Any],
    queries: Sequence[int] = (),
    count: int = 3,
) -> ImageView:
    """View queries of the first model in an image, and the same objects in the other models.

    Args:
        contestants: the models.
        record: a dataset entry; `file_name` is enough.
        queries: indices; empty for those of the best detections.
        count: number of best detections.

    Raises:
        OSError: if the image cannot be read.
        InputError: if the first model has no such query.
    """
    entries = [x.mapper(record) for x in contestants]
    seen = [observe(x.model, [entry]) for x, entry in zip(contestants, entries)]
    first, last = contestants[0], contestants[0].model.num_queries - 1
    objects = []
    for query in queries or best_queries(first.model, seen[0], count):
        if not 0 <= query <= last:
            raise InputError(f"query {query}: {first.name} has queries 0 to {last}")
        box = corners(seen[0].predictions.boxes[-1, 0, query])
        chosen = [query]
        chosen += [same_object(x.model, y, box) for x, y in zip(contestants[1:], seen[1:])]
        views = [
            view_query(x.name, x.model, y, index, x.classes)
            for x, y, index in zip(contestants, seen, chosen)
        ]
        objects.append(views)
    picture = to_picture(entries[0]["image"], first.model.input_format)
    return ImageView(Path(record["file_name"]).name, picture, objects)


def draw_images(
    contestants: Sequence[Contestant],
    records: Sequence[dict[str, Any]],
    folder: Path,
    queries: Sequence[int] = (),
    count: int = 3,
    html: bool = False,
    dpi: int = DPI,
) -> tuple[list[Path], list[str]]:
    """Write the figures of some images and one page for all of them.

    Args:
        contestants, queries, count: as in `inspect`.
        records: dataset entries whose file names differ.
        html: write the page.

    Returns:
        The files written, and the error of each image that could not be read.

    Raises:
        InputError: as in `inspect`.
        OSError: if a file cannot be written.
    """
    written: list[Path] = []
    views, failures = [], []
    for record in records:
        try:
            view = inspect(contestants, record, queries, count)
        except OSError as error:
            failures.append(str(error))
            continue
        written += _draw(view, folder, dpi)
        views.append(view)
    if html and views:
        written.append(folder / PAGE)
        write_page(folder / PAGE, views)
    return written, failures


def _draw(view: ImageView, folder: Path, dpi: int) -> Iterator[Path]:
    """Save figures 3 and 5 of an image and yield their files."""
    figures = {"layers": draw_layers(view)}
    for views in view.objects:
        figures[f"query{views[0].query}"] = draw_heads(view.picture, views)
    for name, figure in figures.items():
        file = folder / f"{Path(view.name).stem}_{name}.png"
        figure.savefig(file, dpi=dpi)
        yield file
