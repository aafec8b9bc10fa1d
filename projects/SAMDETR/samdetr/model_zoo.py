"""All configs by name, and the facts about each, in the manner of Detectron2's `model_zoo`.

    from samdetr import model_zoo

    model_zoo.list("coco/*_dn_*")
    cfg = model_zoo.get_config("coco/sam_detr_pp_r50_smca_dn_12ep")
    model = model_zoo.get("mini/sam_detr_smca", device="cpu").eval()
    model_zoo.row("mini/sam_detr_smca").classes

`python -m samdetr.model_zoo` prints the table. The name of a config is its path under `configs/`
without the suffix. An installed package contains that folder (`setup.py` copies it); in a checkout
it is the one at the top.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
from collections.abc import Sequence
from copy import deepcopy
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from detectron2.config import instantiate
from detectron2.data import Metadata, MetadataCatalog
from omegaconf import DictConfig
from torch import nn

from .checkpoint import Checkpointer
from .engine import ConfigError, build_model, load_config
from .errors import MissingCheckpointError, refusing
from .metadata import metadata_of
from .modeling.layers import meta_device

PACKAGE = Path(__file__).parent
WEIGHTS = PACKAGE / "weights"
FOLDERS = (PACKAGE / "configs", PACKAGE.parents[2] / "configs")  # installed, in a checkout
COMMON = "common"  # parts that configs share, no configs themselves
LICENCES = {  # by the prefix of the path of weights
    str(PACKAGE): "Apache-2.0, made from images under CC BY 4.0 and CC BY 2.0: see NOTICE",
    "detectron2://ImageNetPretrained/MAE/": "CC BY-NC 4.0, of MAE",
    "https://github.com/SwinTransformer/": "MIT, of the authors of Swin Transformer",
    "https://huggingface.co/timm/convnext_": "Apache-2.0, of timm",
    "https://huggingface.co/timm/vit_small_patch16_dinov3": "DINOv3 License, of Meta",
    "detectron2://ImageNetPretrained/": "CC BY-SA 3.0, of Detectron2's model zoo",
}
# How the first line of a config quotes a table or figure of the paper.
QUOTED = re.compile(r"((?:table|figure) \d).*?(AP|mAP at 0\.5)(?: is)? (\d+\.\d)", re.IGNORECASE)


class UnknownConfigError(ConfigError):
    """No config has the given name."""


class PaperFigure(NamedTuple):
    """The result that the paper reports for a config; not measured here."""

    place: str  # such as "table 1"
    metric: str  # "AP" on COCO val2017 or "AP50" on Pascal VOC 2007 test
    value: float

    def __str__(self) -> str:
        return f"{self.metric} {self.value} ({self.place})"


class Row(NamedTuple):
    """A config of the zoo."""

    name: str
    title: str  # first line of the config's docstring
    parameters: int | None  # trainable; None if building the model needs a file that is missing
    paper: PaperFigure | None
    classes: tuple[str, ...]  # names of the categories, in the model's order
    checkpoint: str | None  # trained weights in the package
    backbone: str  # file or URL of the weights that training starts from
    licence: str  # of the checkpoint, or else of the weights that training starts from


def config_folder() -> Path:
    """Return the folder of the configs, in an installed package or a checkout."""
    return next(filter(Path.is_dir, FOLDERS), FOLDERS[0])


def names(pattern: str = "*") -> Sequence[str]:
    """Return the sorted names of all configs that match a pattern, such as "coco/*_dn_*"."""
    folder = config_folder()
    paths = [x.relative_to(folder).with_suffix("") for x in folder.rglob("*.py")]
    return sorted(
        x.as_posix() for x in paths if x.parts[0] != COMMON and fnmatchcase(x.as_posix(), pattern)
    )


list = names  # for users; inside this module `list` would hide Python's


def get_config_file(name: str) -> str:
    """Return the path of a config by its name, with or without ".py".

    Raises:
        UnknownConfigError: if there is no such config; the message has the nearest names.
    """
    name = name.removesuffix(".py")
    known = names()
    if name not in known:
        nearest = ", ".join(get_close_matches(name, known, n=3, cutoff=0.0))
        raise UnknownConfigError(
            f"config {name!r} is not in the zoo and not a file; the nearest names are {nearest}"
        )
    return str(config_folder() / f"{name}.py")


def get_config(name: str, overrides: Sequence[str] = ()) -> DictConfig:
    """Load a config by its name.

    Args and errors: as in `get_config_file` and `samdetr.engine.load_config`.
    """
    return load_config(get_config_file(name), overrides)


def load_any(
    config: str | os.PathLike[str], overrides: Sequence[str] = (), trusted: bool = False
) -> DictConfig:
    """Load a config file or, if there is no such file, the config of that name in the zoo.

    Args and errors: as in `get_config_file` and `samdetr.engine.load_config`.
    """
    path = os.fspath(config)
    return load_config(path if os.path.isfile(path) else get_config_file(path), overrides, trusted)


def get_checkpoint(name: str) -> str | None:
    """Return the path of the trained weights that the package ships for a config, if any.

    Raises:
        UnknownConfigError: if there is no such config.
    """
    get_config_file(name)
    path = WEIGHTS / f"{name.removesuffix('.py').replace('/', '_')}.pth"
    return str(path) if path.is_file() else None


def get(name: str, checkpoint: str | None = None, device: str | None = None) -> nn.Module:
    """Build the model of a config, in training mode like those of Detectron2's zoo.

    Args:
        name: as in `get_config_file`.
        checkpoint: file or URL; "" for random weights; None for the checkpoint in the package, or
            random weights if there is none.
        device: such as "cpu"; None for the config's, which is a GPU if there is one.

    Raises:
        ConfigError: if there is no such config.
        CheckpointError: if the checkpoint is missing or does not fit.
    """
    path = get_checkpoint(name) if checkpoint is None else checkpoint
    return load(get_config(name), path or "", device)[0]


def load(cfg: DictConfig, checkpoint: str, device: str | None = None) -> tuple[nn.Module, Metadata]:
    """Build the model of a loaded config as `get` does, and return its metadata, too."""
    if device is not None:
        cfg = deepcopy(cfg)
        cfg.train.device = device
    model = build_model(cfg)
    return model, metadata_of(cfg, Checkpointer(model).load(checkpoint))


def row(name: str) -> Row:
    """Return the facts about a config; takes some 0.3 s, most of it to build the model on `meta`.

    Raises:
        UnknownConfigError: if there is no such config.
    """
    tree = ast.parse(Path(get_config_file(name)).read_text(encoding="utf-8"))
    title = (ast.get_docstring(tree) or "").partition("\n")[0]
    cfg = get_config(name)
    metadata = MetadataCatalog.get(cfg.dataloader.test.dataset.names)
    checkpoint, backbone = get_checkpoint(name), cfg.train.init_checkpoint
    weights = checkpoint or backbone
    unknown = "see the source of the weights" if weights else ""
    licences = (text for prefix, text in LICENCES.items() if weights.startswith(prefix))
    return Row(
        name,
        title,
        _parameters(cfg),
        _paper_figure(name, title),
        tuple(metadata.thing_classes),
        checkpoint,
        backbone,
        next(licences, unknown),
    )


def table(rows: Sequence[str] | None = None) -> str:
    """Return a markdown table of all configs, or of those with the given names."""
    header = ("config", "M", "classes", "paper", "checkpoint", "licence of the weights")
    cells = [
        (
            x.name,
            "" if x.parameters is None else f"{x.parameters / 1e6:.2f}",
            str(len(x.classes)),
            str(x.paper or ""),
            Path(x.checkpoint).name if x.checkpoint else "",
            x.licence,
        )
        for x in map(row, names() if rows is None else rows)
    ]
    return markdown_table(header, cells)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a markdown table with aligned columns, so that its source is legible too."""
    widths = [max(map(len, column)) for column in zip(header, *rows)]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join(
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths))} |"
        for line in lines
    )


def _parameters(cfg: DictConfig) -> int | None:
    try:
        with meta_device():
            model = instantiate(cfg.model)
    except MissingCheckpointError:  # `CheckpointReference` reads its boxes in the constructor
        return None
    return sum(x.numel() for x in model.parameters() if x.requires_grad)


def _paper_figure(name: str, title: str) -> PaperFigure | None:
    """Return the figure that the title of a config quotes; the paper has none on `mini`."""
    quoted = QUOTED.search(title)
    if quoted is None or name.startswith("mini/"):
        return None
    place, metric, value = quoted.groups()
    return PaperFigure(place.lower(), "AP" if metric == "AP" else "AP50", float(value))


@refusing("model_zoo.py")
def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table of the zoo, or of the configs that match a pattern."""
    parser = argparse.ArgumentParser(prog="python -m samdetr.model_zoo", description=main.__doc__)
    parser.add_argument("pattern", nargs="?", default="*", help='such as "coco/*_dn_*"')
    parser.add_argument("--names", action="store_true", help="print names alone")
    options = parser.parse_args(arguments)
    found = names(options.pattern)
    if not found:
        parser.error(f"no config matches {options.pattern!r}")
    print("\n".join(found) if options.names else table(found))


if __name__ == "__main__":
    main()
