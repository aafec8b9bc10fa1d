"""Registered data sets, checked against the model and cleaned of unusable boxes.

Annotations are taken as they are: what cannot be used is dropped and counted in one warning, what
changes a result is said in one line, and only what would make it wrong without notice is an error.

Units: pixels.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.build import (
    filter_images_with_only_crowd_annotations,
    print_instances_class_histogram,
)
from detectron2.data.datasets import (
    register_coco_instances,
    register_lvis_instances,
    register_pascal_voc,
)
from detectron2.data.datasets.lvis import get_lvis_instances_meta
from detectron2.data.detection_utils import check_metadata_consistency
from detectron2.structures import BoxMode

from ..errors import DataError
from .annotations import Annotations, Record, four_numbers, voc_records
from .coco import coco_records

LEAST_SIDE = 0.01
"""Visible width and height below which a box is dropped: rounding may leave nothing of it."""

CROWD = "crowds (iscrowd or ignore)"
MODES = (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)

logger = logging.getLogger(__name__)


def load_detection_dataset(
    names: str | Sequence[str], filter_empty: bool = False, num_classes: int | None = None
) -> list[Record]:
    """Load one or several registered data sets as one list of Detectron2's dicts.

    Args:
        names: names in Detectron2's DatasetCatalog.
        filter_empty: whether to leave out images without an object. The paper keeps them.
        num_classes: K of the model; None accepts any number of categories.

    Raises:
        DataError: if a data set is not registered, cannot be read, has no images, boxes but none
            to train on, no image file, repeated image ids, or category ids or box modes out of
            range, or if its classes are not those of the model.
        ValueError: if the classes of several data sets differ.
    """
    names = [names] if isinstance(names, str) else list(names)
    records: list[Record] = []
    for name in names:
        records += usable(name, _read(name), filter_empty, num_classes)
    if names and MetadataCatalog.get(names[0]).get("thing_classes"):
        check_metadata_consistency("thing_classes", names)
    return records


def _read(name: str) -> Annotations:
    """Read a registered data set; category ids become the numbers of the model's classes.

    Data sets that were registered with Detectron2's functions for COCO, LVIS and Pascal VOC are
    read by `samdetr.data.coco` and `samdetr.data.annotations`, others by the function under their
    name. Raises DataError.
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
    if origin == register_pascal_voc.__module__:
        found = voc_records(metadata.dirname, metadata.split)
        return indexed(found, metadata.thing_classes, metadata.dirname)
    if origin == register_coco_instances.__module__:
        found = coco_records(metadata.json_file, metadata.image_root)
        metadata.thing_classes = list(found.names.values())
        metadata.thing_dataset_id_to_contiguous_id = {x: i for i, x in enumerate(found.names)}
    elif origin == register_lvis_instances.__module__:
        metadata.set(**get_lvis_instances_meta(name))
        found = coco_records(metadata.json_file, metadata.image_root, "coco_url")
        # By their ids, not by the names of the file: Detectron2 has the first synonym as the name.
        ids = metadata.get("thing_dataset_id_to_contiguous_id") or itertools.count(1)
        found = found._replace(names=dict(zip(ids, metadata.thing_classes)))
    else:
        return Annotations([_copied(record) for record in function()], {}, Counter())
    return indexed(found, metadata.thing_classes, metadata.json_file)


def _copied(record: Record) -> Record:
    """Copy an image of a user's function, with boxes of four numbers."""
    entries = [{**x, "bbox": four_numbers(x.get("bbox"))} for x in record.get("annotations") or []]
    return {**record, "annotations": entries}


def indexed(found: Annotations, classes: Sequence[str], source: object) -> Annotations:
    """Replace category ids by the indices of the model's `classes`, in place.

    Raises DataError, which names `source`, if an object has another class.
    """
    numbers = {name: index for index, name in enumerate(classes)}
    by_id = {category: numbers.get(name) for category, name in found.names.items()}
    for record in found.records:
        for index, annotation in enumerate(record["annotations"]):
            category = annotation["category_id"]
            number = annotation["category_id"] = by_id.get(category)
            if number is None:
                raise DataError(
                    f"{source}: object {index} of {record['file_name']} has the class "
                    f"{found.names.get(category, category)!r}, expected one of {list(classes)}"
                )
    return found


def usable(
    name: str, found: Annotations, filter_empty: bool, num_classes: int | None
) -> list[Record]:
    """Return the images with their usable boxes, and log what they are and what is missing.

    Args and errors: as for `load_detection_dataset`.
    """
    records, data = found.records, f"data set '{name}'"
    if not records:
        raise DataError(f"{data} has no images")
    classes = MetadataCatalog.get(name).get("thing_classes") or []
    bound = len(classes) or num_classes or math.inf
    if num_classes not in (None, bound):
        raise DataError(
            f"{data} has {bound} categories, and the model has num_classes={num_classes}: set "
            f"model.num_classes={bound}, or choose another data set"
        )
    ids, boxes, untrained = set(), 0, list[tuple[str, str]]()
    for index, record in enumerate(records):
        image = f"{data}: image {index}, {record['file_name']}"
        if record.setdefault("image_id", index) in ids:
            raise DataError(f"{image} has image_id={record['image_id']!r}, which another has too")
        ids.add(record["image_id"])
        boxes += len(record["annotations"])
        untrained += _drop_unusable(record, bound, image)
    kinds = Counter(kind for kind, _ in untrained)
    what = f"boxes of {data} are not trained on, {', '.join(f'{kinds[x]} {x}' for x in kinds)}"
    _report(what, boxes, [place for _, place in untrained])
    files = [record["file_name"] for record in records]
    missing = [x for x in files if "://" not in x and not os.path.isfile(x)]
    _report(f"image files of {data} do not exist", len(files), missing)
    seen = {x["category_id"] for record in records for x in record["annotations"]}
    without = [repr(x) for i, x in enumerate(classes) if seen and i not in seen]
    _report(f"classes have no box in {data}", len(classes), without, most=8)
    for doubt, count in found.doubts.items():
        logger.warning("%s: %d %s", data, count, doubt)
    numbers = _box_counts[name] = [len(record["annotations"]) for record in records]
    logger.info(f"{data}: {len(records)} images, {sum(numbers)} boxes, {len(classes)} classes")
    if filter_empty:
        records = filter_images_with_only_crowd_annotations(records)
    if classes:
        print_instances_class_histogram(records, classes)
    return records


def _drop_unusable(record: Record, num_classes: float, image: str) -> list[tuple[str, str]]:
    """Drop the unusable boxes of an image; return kind and place of each that is not trained on."""
    kept, untrained = [], []
    for index, annotation in enumerate(record["annotations"]):
        category, mode = annotation.get("category_id"), annotation.get("bbox_mode")
        if category is None or not 0 <= category < num_classes or mode not in MODES:
            raise DataError(
                f"{image}: annotations[{index}] has category_id={category!r} and bbox_mode={mode!r}"
                f", expected 0 to {num_classes - 1} and BoxMode.XYXY_ABS or XYWH_ABS"
            )
        if flaw := _flaw(annotation, record):
            untrained.append((flaw, f"{image}: annotations[{index}]"))
        if flaw in ("", CROWD):
            kept.append(annotation)
    record["annotations"] = kept
    return untrained


def _flaw(annotation: Record, record: Record) -> str:
    """Describe why a box is not trained on; empty for one that is."""
    left, top, right, bottom = annotation["bbox"]
    if math.isnan(left):
        return "without four finite numbers"
    if annotation["bbox_mode"] == BoxMode.XYWH_ABS:
        right, bottom = left + right, top + bottom
    if min(right - left, bottom - top) < LEAST_SIDE:
        return "without width or height"
    visible_width = min(right, record.get("width", right)) - max(left, 0)
    visible_height = min(bottom, record.get("height", bottom)) - max(top, 0)
    if min(visible_width, visible_height) < LEAST_SIDE:
        return "outside the image"
    return CROWD if annotation.get("iscrowd") else ""


def _report(what: str, total: int, entries: Sequence[str], most: int = 3) -> None:
    """Warn of entries, `most` of them by name, that are left out; an error if these are all."""
    if entries:
        shown = ", ".join(entries[:most]) + ", ..." * (len(entries) > most)
        message = f"{len(entries)} of {total} {what}: {shown}"
        if len(entries) == total:
            raise DataError(message)
        logger.warning(message)


_box_counts: dict[str, list[int]] = {}  # of the images of each data set that was loaded


def names_of(dataset: Mapping[str, Any]) -> Sequence[str]:
    """Return the names of the data sets of a config's node."""
    names = dataset.get("names", [])
    return [names] if isinstance(names, str) else names


def check_limits(dataset: Mapping[str, Any], limits: Mapping[str, int | None]) -> None:
    """Warn of images of loaded data sets with more boxes than the model can find.

    The limits are numbers of boxes by the config keys that set them.
    """
    for name in names_of(dataset):
        counts = _box_counts.get(name, [])
        for key, limit in limits.items():
            if limit is not None and (above := [count for count in counts if count > limit]):
                logger.warning(
                    f"{len(above)} of {len(counts)} images of data set '{name}' have more boxes "
                    f"than {key}={limit}, up to {max(above)}, and the model finds no more than "
                    "that in an image"
                )
