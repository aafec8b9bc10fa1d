"""Data sets of one's own, named in a config by files and folders.

The config alone determines what is registered with Detectron2, so that the `config.yaml` that a run
saves is enough to resume and to evaluate it.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple, dataclass
from typing import Any, ClassVar

from detectron2.data import DatasetCatalog, MetadataCatalog
from omegaconf import OmegaConf

from .annotations import Annotations, Record, folder_records, voc_records, yolo_records
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
    """A part of a YOLO data set.

    Args:
        data_file: its `data.yaml`.
        part: the key of the part in that file, such as `train`.
    """

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
