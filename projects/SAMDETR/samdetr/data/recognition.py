"""Recognition of data sets by what lies in a file or folder, for `--data WHAT`.

Known are: `data.yaml` of YOLO; `_annotations.coco.json` of Roboflow; COCO's own layout; Pascal
VOC's; image folders of Hugging Face; and a `.yaml` or `.py` file that names `json` and `images`, or
`voc` and `split`, for `train` and `val`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import LazyConfig
from omegaconf import OmegaConf

from ..errors import ConfigError
from .annotations import absolute, located
from .own import CocoFiles, ImageFolder, Source, VocFolder, YoloFiles

PARTS = {"train": ("train", "trainval", "training"), "val": ("val", "valid", "validation", "test")}
"""Names of the parts to train and to evaluate on, the preferred ones first."""

DESCRIPTIONS = (".yaml", ".yml", ".py")  # suffixes of files that name those of a data set

Parts = dict[str, list[Source]]
"""Sources to train on, "train", and to evaluate on, "val"; either may be missing."""


def recognise(what: str) -> Parts:
    """Return the sources of the parts of a data set, a file or a folder.

    Raises:
        ConfigError: if it is of no kind or of more than one.
        DataError: if a file of the data set cannot be read.
    """
    path = Path(os.path.abspath(what))
    if path.suffix in DESCRIPTIONS:
        content = _content(path)
        return _yolo(path, content) or _described(path, content)
    found = {kind: parts for kind, finder in KINDS.items() if (parts := finder(path))}
    if len(found) != 1:
        none = "none of " + ", ".join(KINDS) if path.exists() else "no file or folder"
        raise ConfigError(
            f"--data {what} is {' and '.join(found) or none}: name the file or folder of one kind "
            "of data set; a file in COCO's format is named by --train-json FILE --train-images DIR"
        )
    return found.popitem()[1]


def _content(path: Path) -> dict[str, Any]:
    """Read a .yaml or .py file; LazyConfig's loader for YAML would call what the file names."""
    try:
        if path.suffix == ".py":
            content: Any = OmegaConf.to_container(LazyConfig.load(str(path)))
        else:
            content = yaml.safe_load(path.read_text("utf-8-sig"))
    except (SyntaxError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"--data {path}: {error}") from error
    return content if isinstance(content, dict) else {}


def _described(path: Path, content: Mapping[str, Any]) -> Parts:
    """Return the sources that mappings with `json` and `images`, or `voc` and `split`, name."""
    parts: Parts = {}
    folder = str(path.parent)
    for part, entry in content.items():
        source: Source
        match entry:
            case {"json": json, "images": images}:
                source = CocoFiles(absolute(json, folder), absolute(images, folder))
            case {"voc": voc, "split": split}:
                source = VocFolder(absolute(voc, folder), str(split))
            case _:
                raise ConfigError(
                    f"{path}: {part} has {entry}, expected json and images, or voc and split"
                )
        parts[part] = [source]
    if not parts or not set(parts) <= set(PARTS):
        raise ConfigError(f"--data {path}: expected `train` and `val`, or `val` alone")
    return parts


def _first(options: Mapping[str, Source]) -> Parts:
    """Return the sources of the parts, by the preferred one of their names."""
    found = {part: [options[x] for x in names if x in options] for part, names in PARTS.items()}
    return {part: sources[:1] for part, sources in found.items() if sources}


def _yolo(path: Path, content: Mapping[str, Any]) -> Parts:
    names = [x for names in PARTS.values() for x in names if content.get(x)]
    is_yolo = "names" in content or "nc" in content
    return _first({x: YoloFiles(str(path), x) for x in names}) if is_yolo else {}


def _yolo_folder(folder: Path) -> Parts:
    options = (_yolo(x, _content(x)) for x in sorted(folder.glob("*.y*ml")))
    return next(filter(None, options), {})


def _roboflow(folder: Path) -> Parts:
    files = folder.glob("*/_annotations.coco.json")
    return _first({x.parent.name: CocoFiles(str(x), str(x.parent)) for x in files})


def _coco(folder: Path) -> Parts:
    """Find `annotations/instances_train2017.json` and `train2017/` or `images/train2017/`."""
    options: dict[str, Source] = {}
    for path in sorted(folder.glob("annotations/*.json")):
        name = path.stem.removeprefix("instances_")
        images = located(f"images/{name}", str(folder))
        source = CocoFiles(str(path), images if os.path.isdir(images) else str(folder))
        options[name.rstrip("0123456789_-")] = source
    return _first(options)


def _voc(folder: Path) -> Parts:
    splits = {x.stem for x in folder.glob("ImageSets/Main/*.txt")}
    if "val" not in splits and "trainval" in splits:
        splits.discard("train")
    return _first({x: VocFolder(str(folder), x) for x in splits})


def _image_folder(folder: Path) -> Parts:
    if (folder / "metadata.jsonl").is_file():
        return {"train": [ImageFolder(str(folder))]}
    folders = [x.parent for x in folder.glob("*/metadata.jsonl")]
    return _first({x.name: ImageFolder(str(x)) for x in folders})


KINDS: dict[str, Callable[[Path], Parts]] = {
    "a YOLO data set": _yolo_folder,
    "a Roboflow export in COCO's format": _roboflow,
    "a folder in COCO's layout": _coco,
    "a folder in Pascal VOC's layout": _voc,
    "an image folder of Hugging Face": _image_folder,
}
