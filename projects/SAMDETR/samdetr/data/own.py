"""Own data: annotation files and folders that a config names itself, checked entry by entry.

What is registered with Detectron2 follows from the config alone, so that the `config.yaml` that a
run saves is enough to go on with it and to evaluate it later.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances, register_pascal_voc
from detectron2.utils.file_io import PathManager

from .coco import read_coco
from .datasets import load_detection_dataset
from .errors import DataError, listed, wrong_entry
from .records import Record
from .voc import voc_classes, voc_list


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
        if not PathManager.isfile(self.json_file):
            raise DataError(f"{self.json_file} is not a file, expected annotations in COCO format")
        if "://" not in self.image_root and not os.path.isdir(self.image_root):
            raise DataError(f"{self.image_root}, the images of {self.json_file}, is not a folder")
        contents = read_coco(self.json_file)
        categories = sorted(contents["categories"], key=lambda x: x["id"])
        classes = [category["name"] for category in categories]
        if known is not None and classes != list(known):
            raise DataError(
                f"{self.json_file}: categories are {listed(classes)} in the order of their ids, "
                f"expected those that the model is trained on, {listed(known)}"
            )
        self._check_images(contents["images"])
        return classes

    def register(self, name: str, classes: Sequence[str]) -> None:
        """As in `Source`; the classes come from the file."""
        register_coco_instances(name, {}, self.json_file, self.image_root)

    def _check_images(self, images: list[Record]) -> None:
        if "://" in self.image_root:
            return
        for index, image in enumerate(images):
            path = os.path.join(self.image_root, image["file_name"])
            if not os.path.isfile(path):
                entry = f"{self.json_file}: images[{index}]"
                raise wrong_entry(entry, "file_name", path, "the path of a file")


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
        names = voc_classes(self.folder, self.split, known)
        if known is None and not names:
            raise DataError(f"{voc_list(self.folder, self.split)} lists no image with an object")
        return sorted(names) if known is None else list(known)

    def register(self, name: str, classes: Sequence[str]) -> None:
        """As in `Source`, for the evaluators of COCO and of Pascal VOC 2007."""
        register_pascal_voc(name, self.folder, self.split, 2007, list(classes))


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
            f"data set '{names}' has the classes {listed(found)}, and the config has "
            f"{listed(classes)}: the annotations are others than when it was written"
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
