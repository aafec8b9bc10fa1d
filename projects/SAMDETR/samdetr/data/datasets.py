"""Registered data sets, checked against the model and cleaned of unusable boxes.

Annotations are taken as they are: what cannot be used is dropped and counted in one warning, and
only what would make a result wrong without notice is an error.

Units: pixels.
"""

from __future__ import annotations

import logging
import math
import os
from collections import Counter
from collections.abc import Sequence
from difflib import get_close_matches

from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.data.build import (
    filter_images_with_only_crowd_annotations,
    print_instances_class_histogram,
)
from detectron2.data.datasets import (
    register_coco_instances,
    register_lvis_instances,
    register_pascal_voc,
)
from detectron2.data.detection_utils import check_metadata_consistency
from detectron2.structures import BoxMode
from omegaconf import DictConfig, OmegaConf

from ..errors import DataError
from .readers import Record, coco_records, four_numbers, lvis_records, voc_records

LEAST_SIDE = 0.01
"""Visible width and height below which a box is dropped: rounding may leave nothing of it."""

_READERS = {
    register_coco_instances.__module__: coco_records,
    register_lvis_instances.__module__: lvis_records,
}


def load_detection_dataset(
    names: str | Sequence[str], filter_empty: bool = False, num_classes: int | None = None
) -> list[Record]:
    """Load one or several registered data sets as one list of Detectron2's dicts.

    Args:
        names: names in Detectron2's DatasetCatalog.
        filter_empty: whether to leave out images without an object. The paper keeps them.
        num_classes: K of the model; None accepts any number of categories.

    Raises:
        DataError: if a data set is not registered, cannot be read, has no images, no usable box,
            repeated image ids or category ids out of range, or if its classes are not those of the
            model or of the other data sets.
    """
    names = [names] if isinstance(names, str) else list(names)
    if not names:
        raise DataError("names is empty: expected at least one registered data set")
    records: list[Record] = []
    for name in names:
        loaded = read_records(name)
        classes = _number_of_classes(name, num_classes)
        records += _usable(name, loaded, math.inf if classes is None else classes)
    if filter_empty:
        records = filter_images_with_only_crowd_annotations(records)
        if not records:
            raise DataError(f"no image of {names} has an object, and filter_empty leaves them out")
    if class_names := MetadataCatalog.get(names[0]).get("thing_classes"):
        try:
            check_metadata_consistency("thing_classes", names)
        except ValueError as error:
            raise DataError(f"data sets {names} differ in their classes: {error}") from error
        print_instances_class_histogram(records, class_names)
    return records


def read_records(name: str) -> list[Record]:
    """Read a registered data set, each image with an `image_id` and a list of annotations.

    Data sets that were registered with Detectron2's functions for COCO, LVIS and Pascal VOC are
    read by `samdetr.data.readers`, others by the function that they were registered with.

    Raises:
        DataError: if the data set is not registered, cannot be read or has no images.
    """
    if name not in DatasetCatalog:
        similar = get_close_matches(name, DatasetCatalog, n=3)
        raise DataError(
            f"data set '{name}' is not registered (similar names: {similar}); docs/own_data.md "
            "explains how to use your own"
        )
    metadata = MetadataCatalog.get(name)
    for key in ("json_file", "image_root", "dirname"):
        path = metadata.get(key) or ""
        if path and "://" not in path and not os.path.exists(path):
            raise DataError(
                f"data set '{name}': {key} {os.path.abspath(path)} does not exist. Detectron2 "
                "looks for its own data sets in DETECTRON2_DATASETS, now "
                f"'{os.environ.get('DETECTRON2_DATASETS', 'datasets')}'"
            )
    function = DatasetCatalog[name]
    origin = getattr(function, "__module__", None)
    if origin in _READERS:
        records = _READERS[origin](name, metadata.json_file, metadata.image_root)
    elif origin == register_pascal_voc.__module__:
        records = voc_records(metadata.dirname, metadata.split, metadata.thing_classes)
    else:
        records = list(function())
    if not records:
        raise DataError(f"data set '{name}' has no images")
    return [{"image_id": i, "annotations": [], **record} for i, record in enumerate(records)]


def _number_of_classes(name: str, num_classes: int | None) -> int | None:
    """Return the number of categories of a data set, which must be that of the model."""
    classes = MetadataCatalog.get(name).get("thing_classes")
    number = num_classes if classes is None else len(classes)
    if num_classes not in (None, number):
        raise DataError(
            f"data set '{name}' has {number} categories, and the model has num_classes="
            f"{num_classes}: set model.num_classes={number}, or choose another data set"
        )
    return number


def _usable(name: str, records: list[Record], num_classes: float) -> list[Record]:
    """Return the images with their usable boxes and log one warning about what is missing.

    Raises:
        DataError: if an image id is repeated, a category id or box mode is out of range, there are
            boxes but none is usable, or no image file exists.
    """
    ids, faults, usable, first = set(), Counter[str](), [], ""
    for index, record in enumerate(records):
        image = f"data set '{name}': image {index}, {record['file_name']}"
        if record["image_id"] in ids:
            raise DataError(f"{image} has image_id={record['image_id']!r}, which another has too")
        ids.add(record["image_id"])
        kept = []
        for place, annotation in enumerate(record["annotations"]):
            what = f"{image}: annotations[{place}]"
            _check_annotation(what, annotation, num_classes)
            box = four_numbers(annotation["bbox"])
            fault = _fault(box, annotation["bbox_mode"], record)
            faults[fault] += 1
            if not fault:
                kept.append({**annotation, "bbox": box})
            first = first or (what if fault else "")
        usable.append({**record, "annotations": kept})
    total, dropped = faults.total(), faults.total() - faults.pop("", 0)
    if dropped:
        kinds = ", ".join(f"{count} {fault}" for fault, count in faults.items())
        message = f"{dropped} of {total} boxes of data set '{name}' are unusable: {kinds}"
        if dropped == total:
            raise DataError(f"{message}; the first is {first}")
        logging.getLogger(__name__).warning(f"{message}. They are dropped; the first is {first}")
    _check_files(name, [record["file_name"] for record in records])
    return usable


def _check_annotation(what: str, annotation: Record, num_classes: float) -> None:
    category, mode = annotation.get("category_id"), annotation.get("bbox_mode")
    if category is None or not 0 <= category < num_classes:
        raise DataError(f"{what} has category_id={category!r}, expected 0 to {num_classes - 1}")
    if mode not in (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS):
        raise DataError(f"{what} has bbox_mode={mode!r}, expected BoxMode.XYXY_ABS or XYWH_ABS")


def _fault(box: Sequence[float], mode: BoxMode, record: Record) -> str:
    """Describe why a box cannot be trained on; empty for a usable box."""
    left, top, right, bottom = box
    if math.isnan(left):
        return "without four finite numbers"
    if mode == BoxMode.XYWH_ABS:
        right, bottom = left + right, top + bottom
    if min(right - left, bottom - top) < LEAST_SIDE:
        return "without width or height"
    visible_width = min(right, record.get("width", right)) - max(left, 0)
    visible_height = min(bottom, record.get("height", bottom)) - max(top, 0)
    return "outside the image" if min(visible_width, visible_height) < LEAST_SIDE else ""


def _check_files(name: str, files: Sequence[str]) -> None:
    """Warn of missing image files; fail if all are missing, which means a wrong folder."""
    missing = [file for file in files if "://" not in file and not os.path.isfile(file)]
    if missing:
        message = (
            f"data set '{name}': {len(missing)} of {len(files)} image files do not exist, "
            f"the first is {missing[0]}"
        )
        if len(missing) == len(files):
            raise DataError(message)
        logging.getLogger(__name__).warning(message)


def metadata_of(cfg: DictConfig) -> Metadata:
    """Return the metadata of a config's test set, with `thing_classes` where they are known.

    Nothing is read: the classes of one's own data are in the config.
    """
    dataset = OmegaConf.select(cfg, "dataloader.test.dataset", default={})
    if "classes" in dataset:
        return Metadata(thing_classes=list(dataset.classes))
    names = dataset.get("names", [])
    names = [names] if isinstance(names, str) else names
    return MetadataCatalog.get(names[0]) if names else Metadata()
