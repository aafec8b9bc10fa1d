"""Data sets of one's own, named by files and folders in a config or by `--data WHAT`.

The config alone determines what is registered with Detectron2, so that the `config.yaml` that a run
saves is enough to resume and to evaluate it.

`--data` recognises: `data.yaml` of YOLO; `_annotations.coco.json` of Roboflow; COCO's own layout;
Pascal VOC's; image folders of Hugging Face; and a `.yaml` or `.py` file that names `json` and
`images`, or `voc` and `split`, for `train` and `val`.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any, ClassVar

import yaml
from detectron2.config import LazyConfig
from detectron2.data import DatasetCatalog, MetadataCatalog
from omegaconf import OmegaConf

from ..errors import ConfigError
from .annotations import (
    Annotations,
    Record,
    absolute,
    folder_records,
    located,
    voc_records,
    yolo_records,
)
from .coco import coco_records
from .datasets import indexed, usable

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """Files of a data set; each subclass is a format."""

    reader: ClassVar[Callable[..., Annotations]]  # takes the fields

    def read(self) -> Annotations:
        """Read the annotations. Raises DataError, which names the file and the entry."""
        return type(self).reader(*astuple(self))

    def metadata(self) -> dict[str, Any]:
        """Return Detectron2's metadata by which its evaluators find the files."""
        return asdict(self)


@dataclass(frozen=True)
class CocoFiles(Source):
    """Annotations in COCO's format and their images.

    Args:
        json_file: the annotations. Sorted, the category ids give the order of the model's classes.
            A test set may lack `annotations`.
        image_root: folder that the file names of images are relative to.
    """

    json_file: str
    image_root: str
    reader = coco_records


@dataclass(frozen=True)
class VocFolder(Source):
    """A folder in Pascal VOC's layout; its metric is that of VOC 2007.

    Args:
        folder: contains Annotations/*.xml, JPEGImages/*.jpg and ImageSets/Main/.
        split: `ImageSets/Main/<split>.txt` lists the images, one name per line.
    """

    folder: str
    split: str
    reader = voc_records

    def metadata(self) -> dict[str, Any]:
        return {"dirname": self.folder, "split": self.split, "year": 2007}


@dataclass(frozen=True)
class YoloFiles(Source):
    """A part of a YOLO data set, by its key in the `data.yaml`, such as `train`."""

    data_file: str
    part: str
    reader = yolo_records


@dataclass(frozen=True)
class ImageFolder(Source):
    """An image folder of Hugging Face, with `metadata.jsonl`."""

    folder: str
    reader = folder_records


def read_sources(sources: Sequence[Source]) -> Annotations:
    """Read one or several sources as one; classes are joined by their names.

    Images and categories keep their ids where no two sources contradict each other, and are
    numbered from 1 otherwise.
    """
    parts = [source.read() for source in sources]
    if len(parts) == 1:
        return parts[0]
    pairs = dict.fromkeys(pair for part in parts for pair in part.names.items())
    ids = {name: category for category, name in pairs}
    if not len(pairs) == len(ids) == len(set(ids.values())):
        ids = {name: number for number, name in enumerate(ids, 1)}
    for part in parts:
        for annotation in (x for record in part.records for x in record["annotations"]):
            annotation["category_id"] = ids[part.names[annotation["category_id"]]]
    records = [record for part in parts for record in part.records]
    if len({record["image_id"] for record in records}) < len(records):
        records = [{**record, "image_id": number} for number, record in enumerate(records, 1)]
    doubts = sum((part.doubts for part in parts), Counter[str]())
    return Annotations(records, {number: name for name, number in ids.items()}, doubts)


def load_own_dataset(
    names: str,
    source: Source | Sequence[Source],
    classes: Sequence[str],
    filter_empty: bool = False,
    num_classes: int | None = None,
    category_ids: Sequence[Any] | None = None,
) -> list[Record]:
    """Register a data set with Detectron2 and load it as `load_detection_dataset` does.

    Args:
        names: one name, under which it replaces what this function registered before.
        source: files of the data set; several are joined by the names of their classes.
        classes: class names of the model, in their order.
        category_ids: the data set's own id of each class, by which results name it; by default
            0, 1, 2, ...
        filter_empty, num_classes: as for `load_detection_dataset`.

    Raises:
        DataError: as `load_detection_dataset`, and if an object has another class.
        AssertionError: if `names` belongs to another data set.
    """
    # `instantiate` makes configs of lists and of the sources in them.
    plain: Any = OmegaConf.to_object(source) if OmegaConf.is_config(source) else source
    sources = (plain,) if isinstance(plain, Source) else tuple(plain)
    if names in _registered:
        DatasetCatalog.remove(names)
        MetadataCatalog.remove(names)
    # Evaluators call the function, or read the files themselves where there is one of theirs.
    DatasetCatalog.register(names, lambda: indexed(read_sources(sources), classes, names).records)
    _registered.add(names)
    ids = range(len(classes)) if category_ids is None else category_ids
    MetadataCatalog.get(names).set(
        thing_classes=list(classes),
        thing_dataset_id_to_contiguous_id={x: i for i, x in enumerate(ids)},
        **(sources[0].metadata() if len(sources) == 1 else {}),
    )
    logger.info("data set '%s' is %s", names, " and ".join(map(str, sources)))
    found = indexed(read_sources(sources), classes, f"data set '{names}'")
    return usable(names, found, filter_empty, num_classes)


_registered = set[str]()


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
