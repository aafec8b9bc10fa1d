"""Registered data sets, checked against the model and cleaned of unusable boxes.

Annotations are taken as they are: what cannot be used is dropped and counted in one warning, what
changes a result is said in one line, and only what would make it wrong without notice is an error.

Units: pixels.
"""

from __future__ import annotations

import logging
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

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
from detectron2.data.datasets.lvis import get_lvis_instances_meta
from detectron2.data.detection_utils import check_metadata_consistency
from detectron2.structures import BoxMode
from omegaconf import DictConfig, OmegaConf

from ..errors import DataError
from .annotations import Annotations, Record, four_numbers, voc_records
from .coco import coco_records, lvis_records

LEAST_SIDE = 0.01
"""Visible width and height below which a box is dropped: rounding may leave nothing of it."""

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
            that is usable, repeated image ids or category ids out of range, or if its classes are
            not those of the model or of the other data sets.
    """
    names = [names] if isinstance(names, str) else list(names)
    records: list[Record] = []
    for name in names:
        records += usable(name, _read(name), filter_empty, num_classes)
    if names and MetadataCatalog.get(names[0]).get("thing_classes"):
        try:
            check_metadata_consistency("thing_classes", names)
        except ValueError as error:
            raise DataError(f"data sets {names} differ in their classes: {error}") from error
    return records


def _read(name: str) -> Annotations:
    """Read a registered data set; category ids become the numbers of the model's classes.

    Data sets that were registered with Detectron2's functions for COCO, LVIS and Pascal VOC are
    read by `samdetr.data.coco` and `samdetr.data.annotations`, others by the function under their
    name.

    Raises:
        DataError: if the data set is not registered or cannot be read.
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
        found = lvis_records(name, metadata.json_file, metadata.image_root)
        metadata.set(**get_lvis_instances_meta(name))
    else:
        return Annotations([_copied(record) for record in function()], {}, Counter())
    return indexed(found, metadata.thing_classes, metadata.json_file)


def _copied(record: Record) -> Record:
    """Copy an image of a user's function, with boxes of four numbers."""
    annotations = record.get("annotations") or []
    return {
        **record,
        "annotations": [{**x, "bbox": four_numbers(x.get("bbox"))} for x in annotations],
    }


def indexed(found: Annotations, classes: Sequence[str], source: object) -> Annotations:
    """Replace category ids by the numbers of the model's classes, in place.

    Args:
        found: of a reader.
        classes: class names of the model, in their order.
        source: named in errors.

    Raises:
        DataError: if an object has another class.
    """
    numbers = {name: index for index, name in enumerate(classes)}
    by_id = {category: numbers.get(name) for category, name in found.names.items()}
    for record in found.records:
        for index, annotation in enumerate(record["annotations"]):
            category = annotation["category_id"]
            number = annotation["category_id"] = by_id[category]
            if number is None:
                raise DataError(
                    f"{source}: object {index} of {record['file_name']} has the class "
                    f"{found.names[category]!r}, expected one of {list(classes)}"
                )
    return found


def _number_of_classes(name: str, num_classes: int | None) -> float:
    """Return the number of categories of a data set, which must be that of the model."""
    classes = MetadataCatalog.get(name).get("thing_classes")
    number = num_classes if classes is None else len(classes)
    if num_classes not in (None, number):
        raise DataError(
            f"data set '{name}' has {number} categories, and the model has num_classes="
            f"{num_classes}: set model.num_classes={number}, or choose another data set"
        )
    return math.inf if number is None else number


def usable(
    name: str, found: Annotations, filter_empty: bool, num_classes: int | None
) -> list[Record]:
    """Return the images with their usable boxes, and log what they are and what is missing.

    Args: as for `load_detection_dataset`.

    Raises:
        DataError: if there is no image, an image id is repeated, a category id or box mode is out
            of range, there are boxes but none is usable, or no image file exists.
    """
    records = found.records
    if not records:
        raise DataError(f"data set '{name}' has no images")
    bound = _number_of_classes(name, num_classes)
    ids, faults, first = set(), Counter[str](), ""
    for index, record in enumerate(records):
        if record.setdefault("image_id", index) in ids:
            image = f"data set '{name}': image {index}, {record['file_name']}"
            raise DataError(f"{image} has image_id={record['image_id']!r}, which another has too")
        ids.add(record["image_id"])
        kept = []
        for place, annotation in enumerate(record["annotations"]):
            fault = _fault(annotation, bound) or _flaw(annotation, record)
            if not fault:
                kept.append(annotation)
                continue
            what = f"data set '{name}': image {index}, {record['file_name']}: annotations[{place}]"
            if "expected" in fault:
                raise DataError(f"{what} has {fault}")
            faults[fault] += 1
            first = first or what
        record["annotations"] = kept
    _report(name, records, faults, first)
    for doubt, count in found.doubts.items():
        logger.warning("data set '%s': %d %s", name, count, doubt)
    _box_counts[name] = [len(record["annotations"]) for record in records]
    _check_files(name, [record["file_name"] for record in records])
    if filter_empty:
        records = filter_images_with_only_crowd_annotations(records)
    if classes := MetadataCatalog.get(name).get("thing_classes"):
        print_instances_class_histogram(records, classes)
    return records


def _fault(annotation: Record, num_classes: float) -> str:
    """Describe a category or a box mode that is out of range; empty if they are right."""
    category, mode = annotation.get("category_id"), annotation.get("bbox_mode")
    if category is None or not 0 <= category < num_classes:
        return f"category_id={category!r}, expected 0 to {num_classes - 1}"
    if mode not in (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS):
        return f"bbox_mode={mode!r}, expected BoxMode.XYXY_ABS or XYWH_ABS"
    return ""


def _flaw(annotation: Record, record: Record) -> str:
    """Describe why a box cannot be trained on; empty for a usable box."""
    left, top, right, bottom = annotation["bbox"]
    if math.isnan(left):
        return "without four finite numbers"
    if annotation["bbox_mode"] == BoxMode.XYWH_ABS:
        right, bottom = left + right, top + bottom
    if min(right - left, bottom - top) < LEAST_SIDE:
        return "without width or height"
    visible_width = min(right, record.get("width", right)) - max(left, 0)
    visible_height = min(bottom, record.get("height", bottom)) - max(top, 0)
    return "outside the image" if min(visible_width, visible_height) < LEAST_SIDE else ""


def _report(name: str, records: Sequence[Record], faults: Counter[str], first: str) -> None:
    """Log the size of a data set, and count boxes that are unusable or not trained on."""
    boxes = [x for record in records for x in record["annotations"]]
    crowds = sum(1 for x in boxes if x.get("iscrowd"))
    dropped, total = faults.total(), faults.total() + len(boxes)
    kinds = ", ".join(f"{count} {fault}" for fault, count in faults.items())
    if total and dropped + crowds == total:
        kinds += f"{', ' * bool(kinds)}{crowds} crowds (iscrowd or ignore)" if crowds else ""
        where = f"; the first is {first}" if first else ""
        raise DataError(
            f"{total} of {total} boxes of data set '{name}' are unusable: {kinds}{where}"
        )
    if dropped:
        logger.warning(
            f"{dropped} of {total} boxes of data set '{name}' are unusable: {kinds}. They are "
            f"dropped; the first is {first}"
        )
    if crowds:
        logger.warning(
            f"{crowds} of {total} boxes of data set '{name}' are crowds (iscrowd or ignore), which "
            "are not trained on"
        )
    classes = MetadataCatalog.get(name).get("thing_classes") or []
    logger.info(
        f"data set '{name}': {len(records)} images, {len(boxes)} boxes, {len(classes)} classes"
    )
    seen = {x["category_id"] for x in boxes}
    if boxes and (without := [x for i, x in enumerate(classes) if i not in seen]):
        shown = ", ".join(map(repr, without[:8])) + ", ..." * (len(without) > 8)
        logger.warning(
            f"{len(without)} of {len(classes)} classes have no box in data set '{name}': {shown}"
        )


_box_counts: dict[str, list[int]] = {}  # of the images of each data set that was loaded


def check_limits(dataset: Mapping[str, Any], limits: Mapping[str, int | None]) -> None:
    """Warn of images with more boxes than the model can find.

    Args:
        dataset: node of a config, with the `names` of data sets that were loaded.
        limits: numbers of boxes by the config keys that set them.
    """
    names = dataset.get("names", [])
    for name in [names] if isinstance(names, str) else names:
        counts = _box_counts.get(name, [])
        for key, limit in limits.items():
            if limit is not None and (above := [count for count in counts if count > limit]):
                logger.warning(
                    f"{len(above)} of {len(counts)} images of data set '{name}' have more boxes "
                    f"than {key}={limit}, up to {max(above)}, and the model finds no more than "
                    "that in an image"
                )


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
        logger.warning(message)


def metadata_of(cfg: DictConfig, checkpoint: Mapping[str, Any] | None = None) -> Metadata:
    """Return the class names of a model and their ids in its data set, where they are known.

    Nothing is read: they are in the checkpoint, or else in the config or in Detectron2's catalog.

    Args:
        cfg: of the model.
        checkpoint: content of its file, with the state of `ClassMetadata` if a run wrote it.
    """
    dataset = OmegaConf.select(cfg, "dataloader.test.dataset") or {}
    if classes := list(dataset.get("classes", [])):
        ids = dataset.get("category_ids") or range(len(classes))
        numbers = {category: index for index, category in enumerate(ids)}
        found = Metadata(thing_classes=classes, thing_dataset_id_to_contiguous_id=numbers)
    else:
        names = dataset.get("names", [])
        names = [names] if isinstance(names, str) else names
        found = MetadataCatalog.get(names[0]) if names else Metadata()
    kept = (checkpoint or {}).get("metadata")
    if isinstance(kept, dict) and "thing_classes" in kept:
        same = kept["thing_classes"] == found.get("thing_classes")
        found = Metadata(**{**(found.as_dict() if same else {}), **kept})
    return found
