"""Own data: annotation files and folders that a config names itself, checked entry by entry.

What is registered with Detectron2 follows from the config alone, so that the `config.yaml` that a
run saves is enough to go on with it and to evaluate it later.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from xml.etree import ElementTree

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances, register_pascal_voc
from detectron2.utils.file_io import PathManager

from .datasets import DataError, Record, load_detection_dataset

# What an entry of a COCO file must have: field, types, how to say them.
Fields = tuple[tuple[str, tuple[type, ...], str], ...]
_COCO: dict[str, Fields] = {
    "categories": (("id", (int,), "an integer"), ("name", (str,), "text")),
    "images": (
        ("id", (int,), "an integer"),
        ("file_name", (str,), "text"),
        ("width", (int, float), "a number"),
        ("height", (int, float), "a number"),
    ),
    "annotations": (
        ("id", (int,), "an integer"),
        ("image_id", (int,), "an integer"),
        ("category_id", (int,), "an integer"),
        ("bbox", (list,), "[x, y, width, height]"),
    ),
}
_VOC_LAYOUT = "a Pascal VOC folder has Annotations/, JPEGImages/ and ImageSets/Main/SPLIT.txt"
_SIZE = ("size/width", "size/height")
_BOX = tuple(f"bndbox/{x}" for x in ("xmin", "ymin", "xmax", "ymax"))


class Source(Protocol):
    """Where a data set is."""

    def check(self, known: Sequence[str] | None = None) -> list[str]:
        """Read what there is and return the names of the classes, in the order of the model's.

        Args:
            known: classes that are given, and have to be those of this source.

        Raises:
            DataError: names the file, the entry and what would be right.
        """

    def register(self, name: str, classes: Sequence[str]) -> None:
        """Register it with Detectron2's catalogs; nothing is read yet."""


@dataclass(frozen=True)
class CocoFiles:
    """Annotations in COCO's format, and their images.

    Args:
        json_file: the annotations. Ids of categories may be any integers; their order is that of
            the model's classes. A test set may lack `annotations`.
        image_root: the folder that the file names of images start from.
    """

    json_file: str
    image_root: str

    def check(self, known: Sequence[str] | None = None) -> list[str]:
        """As in `Source`; `known` must be the very classes of the file."""
        contents = self._read()
        ids = {kind: set(self._check_entries(contents, kind)) for kind in _COCO}
        categories = sorted(contents["categories"], key=lambda x: x["id"])
        classes = [category["name"] for category in categories]
        if not classes or len(set(classes)) < len(classes):
            raise DataError(f"{self.json_file}: categories are {classes}, expected distinct names")
        if known is not None and classes != list(known):
            raise DataError(
                f"{self.json_file}: categories are {_listed(classes)} in the order of their ids, "
                f"expected those that the model is trained on, {_listed(known)}"
            )
        self._check_annotations(contents, ids)
        self._check_images(contents["images"])
        return classes

    def register(self, name: str, classes: Sequence[str]) -> None:
        """As in `Source`; the classes come from the file."""
        register_coco_instances(name, {}, self.json_file, self.image_root)

    def _read(self) -> dict[str, Any]:
        if not PathManager.isfile(self.json_file):
            raise DataError(f"{self.json_file} is not a file, expected annotations in COCO format")
        if "://" not in self.image_root and not os.path.isdir(self.image_root):
            raise DataError(f"{self.image_root}, the images of {self.json_file}, is not a folder")
        try:
            with PathManager.open(self.json_file) as file:
                contents = json.load(file)
        except ValueError as error:  # of the JSON or of its encoding
            raise DataError(f"{self.json_file} is not a JSON file: {error}") from error
        if not isinstance(contents, dict):
            raise DataError(f"{self.json_file} holds a {type(contents).__name__}, expected a dict")
        return contents

    def _check_entries(self, contents: dict[str, Any], kind: str) -> Iterator[int]:
        """Gives the ids of the entries of a kind."""
        entries = contents.get(kind, [] if kind == "annotations" else None)
        if not isinstance(entries, list):
            raise DataError(
                f"{self.json_file} has no list {kind!r}, expected COCO's format: {', '.join(_COCO)}"
            )
        seen = set()
        for index, entry in enumerate(entries):
            for field, types, wanted in _COCO[kind]:
                value = entry.get(field) if isinstance(entry, dict) else None
                if not isinstance(value, types):
                    self._refuse(kind, index, field, value, wanted)
            if entry["id"] in seen:
                self._refuse(kind, index, "id", entry["id"], "an id that no other has")
            seen.add(entry["id"])
            yield entry["id"]

    def _check_annotations(self, contents: dict[str, Any], ids: dict[str, set[int]]) -> None:
        for index, entry in enumerate(contents.get("annotations", [])):
            box = entry["bbox"]
            if len(box) != 4 or not all(isinstance(x, (int, float)) for x in box):
                self._refuse("annotations", index, "bbox", box, "four numbers")
            for field, kind in (("image_id", "images"), ("category_id", "categories")):
                if entry[field] not in ids[kind]:
                    wanted = f"the id of one of the {kind}"
                    self._refuse("annotations", index, field, entry[field], wanted)

    def _check_images(self, images: list[Record]) -> None:
        if "://" in self.image_root:
            return
        for index, image in enumerate(images):
            path = os.path.join(self.image_root, image["file_name"])
            if not os.path.isfile(path):
                self._refuse("images", index, "file_name", path, "the path of a file")

    def _refuse(self, kind: str, index: int, field: str, value: Any, wanted: str) -> None:
        raise DataError(f"{self.json_file}: {kind}[{index}] has {field}={value!r}, not {wanted}")


@dataclass(frozen=True)
class VocFolder:
    """A folder laid out as Pascal VOC's, whose class names are those that its objects have.

    Args:
        folder: has Annotations/*.xml, JPEGImages/*.jpg and ImageSets/Main/.
        split: `ImageSets/Main/<split>.txt` lists the images, one name a line.
    """

    folder: str
    split: str

    def check(self, known: Sequence[str] | None = None) -> list[str]:
        """As in `Source`; not all of `known` must occur."""
        names = {name for image in self._images() for name in self._names(image, known)}
        if not names:
            raise DataError(f"{self._list} lists no image with an object")
        return sorted(names) if known is None else list(known)

    def register(self, name: str, classes: Sequence[str]) -> None:
        """As in `Source`, for the evaluators of COCO and of Pascal VOC 2007."""
        register_pascal_voc(name, self.folder, self.split, 2007, list(classes))

    @property
    def _list(self) -> Path:
        return Path(self.folder, "ImageSets", "Main", f"{self.split}.txt")

    def _images(self) -> list[str]:
        if not self._list.is_file():
            raise DataError(f"{self._list} is not a file: {_VOC_LAYOUT}")
        images = [line.strip() for line in self._list.read_text().splitlines() if line.strip()]
        # numpy, by which Detectron2 reads the list, takes a single line for no list.
        if len(images) < 2 or any(len(image.split()) > 1 for image in images):
            raise DataError(
                f"{self._list} must name two images or more, each on a line of its own without "
                "anything else"
            )
        return images

    def _names(self, image: str, known: Sequence[str] | None) -> Iterator[str]:
        """Gives the class of each object of an image."""
        picture = Path(self.folder, "JPEGImages", f"{image}.jpg")
        file = Path(self.folder, "Annotations", f"{image}.xml")
        for path in (picture, file):
            if not path.is_file():
                raise DataError(f"{path} is not a file, and {self._list} lists {image}")
        try:
            root = ElementTree.parse(file).getroot()
        except ElementTree.ParseError as error:
            raise DataError(f"{file} is not an XML file: {error}") from error
        _check_numbers(root, _SIZE, int, f"{file}: the annotation")
        for index, entry in enumerate(root.findall("object")):
            _check_numbers(entry, _BOX, float, f"{file}: object[{index}]")
            name = entry.findtext("name") or ""
            if not name or known is not None and name not in known:
                expected = "text" if known is None else f"one of {_listed(known)}"
                raise DataError(f"{file}: object[{index}] has name={name!r}, not {expected}")
            yield name


def load_own_dataset(
    names: str,
    source: Source,
    classes: Sequence[str],
    filter_empty: bool = False,
    num_classes: int | None = None,
) -> list[Record]:
    """Registers a data set with Detectron2 and loads it as `load_detection_dataset` does.

    Args:
        names: one name, that it is registered by, instead of what this function has registered by
            it before.
        source: where it is.
        classes: names of the classes that `source` must have, in this order.
        filter_empty, num_classes: as in `load_detection_dataset`.

    Raises:
        DataError: as `load_detection_dataset`, if `names` belongs to another data set, or if the
            classes have changed.
    """
    _register(names, source, tuple(classes))
    records = load_detection_dataset(names, filter_empty, num_classes)
    found = MetadataCatalog.get(names).thing_classes
    if found != list(classes):
        raise DataError(
            f"data set '{names}' has the classes {_listed(found)}, and the config has "
            f"{_listed(classes)}: the annotations are others than when it was written"
        )
    return records


_registered: dict[str, tuple[Source, tuple[str, ...]]] = {}


def _register(name: str, source: Source, classes: tuple[str, ...]) -> None:
    if name in DatasetCatalog:
        if _registered.get(name) == (source, classes):
            return
        if name not in _registered:
            raise DataError(f"names={name!r} is a data set of someone else: choose another name")
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    source.register(name, classes)
    _registered[name] = source, classes


def _check_numbers(
    entry: ElementTree.Element, paths: Sequence[str], number: type, what: str
) -> None:
    for path in paths:
        text = entry.findtext(path)
        try:
            number(text)
        except (TypeError, ValueError) as error:
            kind = "an integer" if number is int else "a number"
            raise DataError(f"{what} has {path}={text!r}, not {kind}") from error


def _listed(names: Sequence[str], most: int = 10) -> str:
    rest = f", ... ({len(names)} in all)" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + rest
