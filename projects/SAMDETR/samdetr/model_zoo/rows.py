"""What is known about each config: parameters, the paper's figure, categories, licence."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from detectron2.config import instantiate
from detectron2.data import MetadataCatalog
from omegaconf import DictConfig

from ..paper import PAPER, markdown_table
from .zoo import PACKAGE, get_checkpoint, get_config, get_config_file, names

# By what the path of weights begins with.
LICENCES = {
    str(PACKAGE): "Apache-2.0, made from images under CC BY 4.0 and CC BY 2.0: see NOTICE",
    "detectron2://ImageNetPretrained/": "CC BY-SA 3.0, of Detectron2's model zoo",
}
# In the first line of a config that is a row of another table than the paper's first two.
QUOTED = re.compile(r"((?:table|figure) \d).*?(AP|mAP at 0\.5)(?: is)? (\d+\.\d)", re.IGNORECASE)


class PaperFigure(NamedTuple):
    """What the paper reports for a config; it was not measured here."""

    place: str  # such as "table 1"
    metric: str  # "AP" on COCO val2017 or "AP50" on Pascal VOC 2007 test
    value: float

    def __str__(self) -> str:
        return f"{self.metric} {self.value} ({self.place})"


class Row(NamedTuple):
    """A config of the zoo."""

    name: str
    title: str  # what the config says it is
    parameters: int | None  # trainable; None if building the model needs a file that is not there
    paper: PaperFigure | None
    classes: tuple[str, ...]  # names of the categories, in the model's order
    checkpoint: str | None  # trained weights in the package
    backbone: str  # weights that training starts from: file or URL
    licence: str  # of the checkpoint, or else of the weights that training starts from


def row(name: str) -> Row:
    """What is known about a config; a few tenths of a second, for its model is built, empty.

    Raises:
        UnknownConfigError: if there is no such config.
    """
    title = _title(get_config_file(name))
    cfg = get_config(name)
    metadata = MetadataCatalog.get(cfg.dataloader.test.dataset.names)
    checkpoint, backbone = get_checkpoint(name), cfg.train.init_checkpoint
    return Row(
        name,
        title,
        _parameters(cfg),
        _paper_figure(name, title),
        tuple(metadata.thing_classes),
        checkpoint,
        backbone,
        _licence(checkpoint or backbone),
    )


def table(rows: Sequence[str] | None = None) -> str:
    """A markdown table of all configs, or of those with the given names."""
    header = ("config", "M", "classes", "paper", "checkpoint", "licence of the weights")
    return markdown_table(header, [_cells(row(x)) for x in (names() if rows is None else rows)])


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.name,
        "" if row.parameters is None else f"{row.parameters / 1e6:.2f}",
        str(len(row.classes)),
        str(row.paper or ""),
        Path(row.checkpoint).name if row.checkpoint else "",
        row.licence,
    )


def _title(file: str) -> str:
    text = ast.get_docstring(ast.parse(Path(file).read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0]


def _parameters(cfg: DictConfig) -> int | None:
    try:
        with torch.device("meta"):  # takes no memory and no time
            model = instantiate(cfg.model)
    except FileNotFoundError:  # `CheckpointReference` reads its boxes when it is built
        return None
    return sum(x.numel() for x in model.parameters() if x.requires_grad)


def _paper_figure(name: str, title: str) -> PaperFigure | None:
    """From tables 1 and 2, or as the config quotes it."""
    for entry in PAPER:
        if name == f"coco/{entry.config}":
            return PaperFigure("table 1" if name.endswith("_12ep") else "table 2", "AP", entry.ap)
    quoted = QUOTED.search(title)
    if quoted is None or name.startswith("mini/"):  # the paper has no such data
        return None
    place, metric, value = quoted.groups()
    return PaperFigure(place.lower(), "AP" if metric == "AP" else "AP50", float(value))


def _licence(weights: str) -> str:
    found = [text for start, text in LICENCES.items() if weights.startswith(start)]
    return found[0] if found else "as their source says"
