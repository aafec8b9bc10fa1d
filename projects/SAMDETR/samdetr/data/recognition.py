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
from .annotations import located
from .own import CocoFiles, ImageFolder, Source, VocFolder, YoloFiles

PARTS = {"train": ("train", "trainval", "training"), "val": ("val", "valid", "validation", "test")}
"""Names of the parts to train and to evaluate on, the preferred ones first."""

Parts = dict[str, list[Source]]
"""Sources to train on, "train", and to evaluate on, "val"; either may be missing."""


def recognise(what: str) -> Parts:
    """Return the sources of the parts of a data set.

    Args:
        what: a file or a folder.

    Raises:
        ConfigError: if it is of no kind or of more than one.
        DataError: if a file of the data set cannot be read.
    """
    path = Path(os.path.abspath(what))
    if path.suffix in (".yaml", ".yml", ".py") and path.is_file():
        return _described(path)
    if path.is_file():
        raise ConfigError(
            f"--data {what}: expected a folder, a .yaml or a .py file; a file in COCO's format is "
            "named by --train-json FILE --train-images DIR"
        )
    if not path.is_dir():
        raise ConfigError(f"--data {what}: there is no such file or folder")
    found = {kind: parts for kind, finder in KINDS.items() if (parts := finder(path))}
    if len(found) != 1:
        kinds = " and ".join(found) or "none of " + ", ".join(KINDS)
        raise ConfigError(
            f"--data {what} is {kinds}: name the file or folder of one kind of data set"
        )
    return found.popitem()[1]


def _described(path: Path) -> Parts:
    """Read a file that describes a data set."""
    content = _content(path)
    if OmegaConf.is_config(content):
        content = OmegaConf.to_container(content)
    if not isinstance(content, dict):
        raise ConfigError(f"--data {path}: expected `train` and `val`")
    if "names" in content or "nc" in content:
        return _yolo(path, content)
    if not content or not set(content) <= set(PARTS):
        raise ConfigError(f"--data {path}: expected `train` and `val`, or `val` alone")
    folder = str(path.parent)
    return {part: [source_of(x, folder, f"{path}: {part}")] for part, x in content.items()}


def _content(path: Path) -> Any:
    """Read a .yaml or .py file; LazyConfig's loader for YAML would call what the file names."""
    try:
        if path.suffix == ".py":
            return LazyConfig.load(str(path))
        return yaml.safe_load(path.read_text("utf-8-sig"))
    except (SyntaxError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"--data {path}: {error}") from error


def source_of(entry: Any, folder: str, what: str) -> Source:
    """Return the source that a mapping with `json` and `images`, or `voc` and `split`, names."""

    def absolute(path: str) -> str:
        return path if "://" in path else os.path.abspath(os.path.join(folder, path))

    match entry:
        case {"json": str(json), "images": str(images), **others} if not others:
            return CocoFiles(absolute(json), absolute(images))
        case {"voc": str(voc), "split": split, **others} if not others:
            return VocFolder(absolute(voc), str(split))
    raise ConfigError(f"{what} has {entry}, expected json and images, or voc and split")


def _first(options: Mapping[str, Source]) -> Parts:
    """Return the sources of the parts, by the preferred one of their names."""
    found = {part: [options[x] for x in names if x in options] for part, names in PARTS.items()}
    return {part: sources[:1] for part, sources in found.items() if sources}


def _yolo(path: Path, content: Mapping[str, Any]) -> Parts:
    keys = {x for names in PARTS.values() for x in names if content.get(x)}
    return _first({key: YoloFiles(str(path), key) for key in keys})


def _yolo_folder(folder: Path) -> Parts:
    for path in sorted(x for x in folder.iterdir() if x.suffix in (".yaml", ".yml")):
        content = _content(path)
        if isinstance(content, dict) and ("names" in content or "nc" in content):
            return _yolo(path, content)
    return {}


def _roboflow(folder: Path) -> Parts:
    files = {x.parent.name: x for x in folder.glob("*/_annotations.coco.json")}
    return _first({name: CocoFiles(str(x), str(x.parent)) for name, x in files.items()})


def _coco(folder: Path) -> Parts:
    """Find `annotations/instances_train2017.json` and `train2017/` or `images/train2017/`."""
    options: dict[str, Source] = {}
    for path in sorted(folder.glob("annotations/*.json")):
        name = path.stem.removeprefix("instances_")
        key = name.rstrip("0123456789_-")
        if key in PARTS["train"] + PARTS["val"]:
            images = located(f"images/{name}", str(folder))
            options[key] = CocoFiles(str(path), images if os.path.isdir(images) else str(folder))
    return _first(options)


def _voc(folder: Path) -> Parts:
    if not (folder / "Annotations").is_dir():
        return {}
    splits = {x.stem for x in folder.glob("ImageSets/Main/*.txt")}
    if "val" not in splits and "trainval" in splits:
        splits.discard("train")
    return _first({x: VocFolder(str(folder), x) for x in splits})


def _image_folder(folder: Path) -> Parts:
    if (folder / "metadata.jsonl").is_file():
        return {"train": [ImageFolder(str(folder))]}
    names = {x.parent.name for x in folder.glob("*/metadata.jsonl")}
    return _first({name: ImageFolder(str(folder / name)) for name in names})


KINDS: dict[str, Callable[[Path], Parts]] = {
    "a YOLO data set": _yolo_folder,
    "a Roboflow export in COCO's format": _roboflow,
    "a folder in COCO's layout": _coco,
    "a folder in Pascal VOC's layout": _voc,
    "an image folder of Hugging Face": _image_folder,
}
