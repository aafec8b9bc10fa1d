"""Data sets of one's own, named in a config by files and folders.

The config alone determines what is registered with Detectron2, so that the `config.yaml` that a run
saves is enough to resume and to evaluate it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from ..errors import DataError
from .datasets import load_detection_dataset
from .readers import Record, read_coco, read_voc, voc_records


@dataclass(frozen=True)
class CocoFiles:
    """Annotations in COCO's format and their images.

    Args:
        json_file: the annotations. Category ids may be any integers; sorted, they give the order of
            the model's classes. A test set may lack `annotations`.
        image_root: folder that the file names of images are relative to.
    """

    json_file: str
    image_root: str

    def class_names(self, known: Sequence[str] | None = None) -> list[str]:
        """Read the class names, in the order of the model's classes.

        Args:
            known: classes of the training set, which must be the same.

        Raises:
            DataError: names the file and the entry.
        """
        if "://" not in self.image_root and not os.path.isdir(self.image_root):
            raise DataError(f"{self.image_root}, the images of {self.json_file}, is not a folder")
        categories = sorted(read_coco(self.json_file)["categories"], key=lambda x: x["id"])
        classes = [str(category["name"]) for category in categories]
        if known is not None and classes != list(known):
            raise DataError(
                f"{self.json_file}: the categories, ordered by id, are {classes}, and those of the "
                f"training data are {list(known)}"
            )
        return classes

    def register(self, name: str, classes: Sequence[str]) -> None:
        """Register with Detectron2's catalogs, without reading anything."""
        register_coco_instances(name, {}, self.json_file, self.image_root)


@dataclass(frozen=True)
class VocFolder:
    """A folder in Pascal VOC's layout.

    Args:
        folder: contains Annotations/*.xml, JPEGImages/*.jpg and ImageSets/Main/.
        split: `ImageSets/Main/<split>.txt` lists the images, one name per line.
    """

    folder: str
    split: str

    def class_names(self, known: Sequence[str] | None = None) -> list[str]:
        """Read the names of the objects' classes, in alphabetical order, or check `known`.

        Args:
            known: classes of the training set; not all of them need to occur.

        Raises:
            DataError: names the file and the object.
        """
        records = read_voc(self.folder, self.split)
        names = {entry["name"] for record in records for entry in record["annotations"]}
        if known is None and not names:
            raise DataError(f"split {self.split} of {self.folder} has no object")
        if known is not None and (others := names - set(known)):
            raise DataError(
                f"split {self.split} of {self.folder} has the classes {sorted(others)}, and those "
                f"of the training data are {list(known)}"
            )
        return sorted(names) if known is None else list(known)

    def register(self, name: str, classes: Sequence[str]) -> None:
        """Register with Detectron2's catalogs, with VOC 2007's metric."""
        DatasetCatalog.register(name, lambda: voc_records(self.folder, self.split, classes))
        MetadataCatalog.get(name).set(
            thing_classes=list(classes), dirname=self.folder, split=self.split, year=2007
        )


def load_own_dataset(
    names: str,
    source: CocoFiles | VocFolder,
    classes: Sequence[str],
    filter_empty: bool = False,
    num_classes: int | None = None,
) -> list[Record]:
    """Register a data set with Detectron2 and load it as `load_detection_dataset` does.

    Args:
        names: one name, under which it replaces what this function registered before.
        source: files of the data set.
        classes: class names that `source` must have, in this order.
        filter_empty, num_classes: as for `load_detection_dataset`.

    Raises:
        DataError: as `load_detection_dataset`, and if `names` belongs to another data set or the
            classes of the source have changed.
    """
    _register(names, source, tuple(classes))
    records = load_detection_dataset(names, filter_empty, num_classes)
    found = MetadataCatalog.get(names).thing_classes
    if found != list(classes):
        raise DataError(
            f"data set '{names}' has the classes {found}, and the config has {list(classes)}: the "
            "annotations have changed since it was written"
        )
    return records


_registered: dict[str, tuple[CocoFiles | VocFolder, tuple[str, ...]]] = {}


def _register(name: str, source: CocoFiles | VocFolder, classes: tuple[str, ...]) -> None:
    if name in DatasetCatalog:
        if _registered.get(name) == (source, classes):
            return
        if name not in _registered:
            raise DataError(f"names={name!r} is already registered: choose another name")
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    source.register(name, classes)
    _registered[name] = source, classes
