"""Loads registered data sets and looks at them before a training step does.

Detectron2's `get_detection_dataset_dicts` with checks: what is missing is an error that says where
it was looked for, categories have to match the model, and unusable boxes are dropped and counted.
"""

import logging
import math
import os
from collections import Counter
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.build import (
    filter_images_with_only_crowd_annotations,
    print_instances_class_histogram,
)
from detectron2.data.detection_utils import check_metadata_consistency
from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager

from ..errors import SamdetrError
from .mini import MiniHandler

Record = dict[str, Any]
"""An image, or one of its annotations, in Detectron2's format."""


class DataError(SamdetrError):
    """A data set that is not there, cannot be read or does not fit the model."""


EXTRA = ": pip install 'samdetr[{}]'"  # where a package is missing
# Metadata that are paths: of data sets in COCO's format, and of Pascal VOC.
_PATHS = {"json_file": "annotation file", "image_root": "image folder", "dirname": "folder"}


def load_detection_dataset(
    names: str | Sequence[str], filter_empty: bool = False, num_classes: int | None = None
) -> list[Record]:
    """Loads one or several registered data sets as one list of images.

    Args:
        names: names in Detectron2's DatasetCatalog.
        filter_empty: leave out images without an object. The paper trains on all images.
        num_classes: K of the model that gets the data; None for any.

    Raises:
        DataError: `names` is empty, a name is not registered, the annotations or the images are not
            where they should be or cannot be read, there are no images, `num_classes` is not the
            number of categories, a category does not exist, no box of a data set is usable, or data
            sets differ in their classes.
    """
    names = [names] if isinstance(names, str) else list(names)
    if not names:
        raise DataError("names is empty: expected at least one registered data set")
    records: list[Record] = []
    for name in names:
        loaded = _load(name)
        _check_categories(name, loaded, num_classes)
        records += drop_unusable_boxes(name, loaded)
    if filter_empty:
        records = filter_images_with_only_crowd_annotations(records)
    if classes := _classes(names[0]):
        try:
            check_metadata_consistency("thing_classes", names)
        except ValueError as error:
            raise DataError(f"data sets {names} differ in their classes: {error}") from error
        print_instances_class_histogram(records, classes)
    return records


def drop_unusable_boxes(name: str, records: list[Record]) -> list[Record]:
    """The images with the usable ones of their boxes; one warning says how many were dropped.

    Raises:
        DataError: there are boxes, and not one is usable.
    """
    faults: Counter[str] = Counter()
    usable, total, first = [], 0, ""
    for record in records:
        found = [box_fault(annotation, record) for annotation in record["annotations"]]
        total += len(found)
        if any(found):
            first = first or record["file_name"]
            faults.update(fault for fault in found if fault)
            pairs = zip(record["annotations"], found, strict=True)
            record = {**record, "annotations": [kept for kept, fault in pairs if not fault]}
        usable.append(record)
    if faults:
        kinds = ", ".join(f"{count} {fault}" for fault, count in faults.items())
        message = f"data set '{name}', {total} boxes in all: {kinds}; the first in {first}"
        if sum(faults.values()) == total:
            raise DataError(f"No usable box. {message}")
        logging.getLogger(__name__).warning(f"Unusable boxes are left out. {message}")
    return usable


def box_fault(annotation: Record, record: Record) -> str | None:
    """What makes a box unusable; None for one that has an area and touches its image."""
    try:
        left, top, right, bottom = map(float, annotation["bbox"])
    except (KeyError, TypeError, ValueError):
        return "not four numbers"
    if annotation["bbox_mode"] == BoxMode.XYWH_ABS:
        right, bottom = left + right, top + bottom
    if not all(map(math.isfinite, (left, top, right, bottom))):
        return "with NaN or infinity"
    if right <= left or bottom <= top:
        return "without width or height"
    width, height = record.get("width", math.inf), record.get("height", math.inf)
    if right <= 0 or bottom <= 0 or left >= width or top >= height:
        return "outside the image"
    return None


def _load(name: str) -> list[Record]:
    if name not in DatasetCatalog:
        similar = get_close_matches(name, DatasetCatalog, n=3)
        raise DataError(
            f"data set '{name}' is not registered (similar names: {similar}); docs/own_data.md "
            "says how to use your own"
        )
    metadata = MetadataCatalog.get(name)
    for attribute, kind in _PATHS.items():
        _check_exists(name, kind, str(getattr(metadata, attribute, "")))
    try:
        records = DatasetCatalog.get(name)
    except (ValueError, KeyError, AssertionError) as error:
        path = getattr(metadata, "json_file", "its source")
        raise DataError(f"data set '{name}' cannot be read from {path}: {error!r}") from error
    except ModuleNotFoundError as error:
        hint = EXTRA.format("lvis") if error.name == "lvis" else ""
        raise DataError(f"data set '{name}' cannot be read: {error}{hint}") from error
    if not records:
        raise DataError(f"data set '{name}' has no images")
    _check_exists(name, "first image", records[0]["file_name"])
    return [{"annotations": [], **record} for record in records]


def _check_exists(name: str, kind: str, path: str) -> None:
    if path.startswith(MiniHandler.PREFIX):
        path = PathManager.get_local_path(path)
        hint = "It was generated and got lost: delete the folder, or set SAMDETR_CACHE to another."
    else:
        root = os.environ.get("DETECTRON2_DATASETS", "datasets")
        hint = (
            f"Detectron2's own data sets are looked for in DETECTRON2_DATASETS, now '{root}'; "
            "for one of yours, check the path that it was registered with."
        )
    if path and "://" not in path and not os.path.exists(path):
        raise DataError(
            f"data set '{name}': its {kind} {os.path.abspath(path)} does not exist. {hint}"
        )


def _classes(name: str) -> list[str] | None:
    return getattr(MetadataCatalog.get(name), "thing_classes", None)


def _check_categories(name: str, records: list[Record], num_classes: int | None) -> None:
    classes = _classes(name)
    number = num_classes if classes is None else len(classes)
    if number is None:
        return
    if num_classes not in (None, number):
        raise DataError(
            f"data set '{name}' has {number} categories, and the model has num_classes="
            f"{num_classes}: set model.num_classes={number}, or choose another data set"
        )
    for record in records:
        for annotation in record["annotations"]:
            if annotation["category_id"] not in range(number):
                raise DataError(
                    f"data set '{name}': category_id {annotation['category_id']} in "
                    f"{record['file_name']}, expected 0 to {number - 1}"
                )
