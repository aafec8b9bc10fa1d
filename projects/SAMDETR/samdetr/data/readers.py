"""Readers of annotations in COCO's, LVIS's and Pascal VOC's formats.

Detectron2's readers stop at files as many annotation tools write them: annotation ids that are
missing, zero or repeated, `null` fields, invalid polygons, fractional VOC coordinates, a list with
one image. These readers accept them. A box that is not four finite numbers is kept as NaN, so that
training and evaluation drop and count it in one place.

Units: pixels.
"""

from __future__ import annotations

import json
import math
import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from detectron2.data import MetadataCatalog
from detectron2.data.datasets.lvis import get_lvis_instances_meta
from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager

from ..errors import DataError

Record = dict[str, Any]
"""An image or an annotation, in Detectron2's format unless stated otherwise."""


def read_coco(path: str) -> dict[str, list[Record]]:
    """Read a file in COCO's or LVIS's format.

    Annotations are reduced to what box detection needs, with `area` and `iscrowd` filled in
    (`ignore` counts as `iscrowd`). They are numbered from 1: pycocotools treats an object with id 0
    as never matched, and two objects with one id as the same.

    Returns:
        `categories`, `images` and, unless the file is of a test set, `annotations`.

    Raises:
        DataError: if the file is not of this format, ids or category names are not unique, or an
            annotation refers to an unknown image or category; names the file and the entry.
    """
    try:
        contents = json.loads(Path(PathManager.get_local_path(path)).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}") from error
    kinds = ("categories", "images")
    lists = [contents.get(kind) for kind in kinds] if isinstance(contents, dict) else []
    if not lists or not all(entries and isinstance(entries, list) for entries in lists):
        raise DataError(f"{path} is not in COCO's format: expected lists 'categories' and 'images'")
    found = {kind: contents[kind] for kind in kinds}
    ids = {kind: _unique(path, kind, "id", entries) for kind, entries in found.items()}
    _unique(path, "categories", "name", found["categories"])
    if contents.get("annotations") is not None:
        found["annotations"] = [
            _annotation(f"{path}: annotations[{index}]", index + 1, entry, ids)
            for index, entry in enumerate(contents["annotations"])
        ]
    return found


def _unique(path: str, kind: str, field: str, entries: list[Record]) -> set[Any]:
    values = set()
    for index, entry in enumerate(entries):
        value = entry.get(field) if isinstance(entry, dict) else None
        if value is None or value in values:
            problem = "missing" if value is None else "not unique"
            raise DataError(f"{path}: {kind}[{index}] has {field}={value!r}, which is {problem}")
        values.add(value)
    return values


def _annotation(what: str, number: int, entry: Record, ids: Mapping[str, set[Any]]) -> Record:
    for field, kind in (("image_id", "images"), ("category_id", "categories")):
        value = entry.get(field)
        if value not in ids[kind]:
            raise DataError(f"{what} has {field}={value!r}, which is the id of none of the {kind}")
    box = four_numbers(entry.get("bbox"))
    area = entry.get("area")
    return {
        "id": number,
        "image_id": entry["image_id"],
        "category_id": entry["category_id"],
        "bbox": box,
        "area": max(box[2], 0) * max(box[3], 0) if area is None else area,
        "iscrowd": int(bool(entry.get("iscrowd") or entry.get("ignore"))),
    }


def four_numbers(box: Any) -> list[float]:
    """Return the coordinates of a box as floats, all NaN if they are not four finite numbers."""
    try:
        numbers = [float(number) for number in box]
    except (TypeError, ValueError, OverflowError):
        return [math.nan] * 4
    finite = len(numbers) == 4 and all(map(math.isfinite, numbers))
    return numbers if finite else [math.nan] * 4


def coco_records(name: str, path: str, image_root: str) -> list[Record]:
    """Read a file in COCO's format as Detectron2's dicts and set the metadata of a data set.

    Args:
        name: of the data set, whose `thing_classes` and mapping of category ids are set.
        path: of the annotation file.
        image_root: folder that file names are relative to.
    """
    contents = read_coco(path)
    categories = sorted(contents["categories"], key=lambda x: x["id"])
    classes = {category["id"]: index for index, category in enumerate(categories)}
    metadata = MetadataCatalog.get(name)
    metadata.thing_classes = [str(category["name"]) for category in categories]
    metadata.thing_dataset_id_to_contiguous_id = classes
    return _records(path, contents, classes, lambda x: os.path.join(image_root, x["file_name"]))


def lvis_records(name: str, path: str, image_root: str) -> list[Record]:
    """Read a file in LVIS's format as Detectron2's dicts and set the metadata of a data set.

    Args: as for `coco_records`; `name` contains the version of LVIS.

    Raises:
        DataError: as `read_coco`, and if a category is not the one that LVIS has under its id.
    """
    contents = read_coco(path)
    metadata = MetadataCatalog.get(name)
    metadata.set(**get_lvis_instances_meta(name))
    names = metadata.thing_classes
    classes = metadata.get("thing_dataset_id_to_contiguous_id") or {
        index + 1: index for index in range(len(names))
    }
    for index, category in enumerate(contents["categories"]):
        expected = names[classes[category["id"]]] if category["id"] in classes else None
        # Detectron2 names a category by its first synonym.
        if expected not in (category["name"], *category.get("synonyms", [])[:1]):
            raise DataError(
                f"{path}: categories[{index}] has name={category['name']!r}, but category "
                f"{category['id']} of this version of LVIS is {expected!r}"
            )

    def file_name(image: Record) -> str:
        return image_root + "/".join(image["coco_url"].split("/")[-2:])

    return _records(path, contents, classes, file_name)


def _records(
    path: str,
    contents: Mapping[str, list[Record]],
    classes: Mapping[Any, int],
    file_name: Callable[[Record], str],
) -> list[Record]:
    annotations = defaultdict(list)
    for entry in contents.get("annotations", []):
        annotations[entry["image_id"]].append(
            {
                "bbox": entry["bbox"],
                "bbox_mode": BoxMode.XYWH_ABS,
                "category_id": classes[entry["category_id"]],
                "iscrowd": entry["iscrowd"],
            }
        )
    records = []
    for image in sorted(contents["images"], key=lambda x: x["id"]):
        try:
            record = {
                "file_name": file_name(image),
                "width": int(image["width"]),
                "height": int(image["height"]),
                "image_id": image["id"],
                "annotations": annotations[image["id"]],
            }
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{path}: image {image['id']!r} needs a file name, width and height: {error!r}"
            ) from error
        records.append(record)
    return records


def read_voc(folder: str, split: str) -> list[Record]:
    """Read the images of a split of a Pascal VOC folder.

    Returns:
        Detectron2's dicts, whose annotations have `name` and `difficult` and no `category_id`.

    Raises:
        DataError: if the list or an annotation file cannot be read; names it.
    """
    path = os.path.join(folder, "ImageSets", "Main", f"{split}.txt")
    if not PathManager.isfile(path):
        raise DataError(
            f"{path} is not a file: a Pascal VOC folder has Annotations/, JPEGImages/ and "
            "ImageSets/Main/SPLIT.txt"
        )
    with PathManager.open(path) as file:
        images = [line.split()[0] for line in file if line.strip()]
    return [_voc_record(folder, image) for image in images]


def _voc_record(folder: str, image: str) -> Record:
    path = os.path.join(folder, "Annotations", f"{image}.xml")
    try:
        with PathManager.open(path, "rb") as file:
            root = ElementTree.parse(file).getroot()
        width, height = (int(root.findtext(f"size/{x}", "")) for x in ("width", "height"))
    except (OSError, ElementTree.ParseError, LookupError, ValueError) as error:
        raise DataError(f"{path} is not an annotation of Pascal VOC: {error}") from error
    annotations = []
    for entry in root.findall("object"):
        sides = (entry.findtext(f"bndbox/{x}") for x in ("xmin", "ymin", "xmax", "ymax"))
        left, top, right, bottom = four_numbers(sides)
        annotations.append(
            {
                "name": (entry.findtext("name") or "").strip(),
                # VOC counts pixels from 1 and includes the last one.
                "bbox": [left - 1, top - 1, right, bottom],
                "bbox_mode": BoxMode.XYXY_ABS,
                "difficult": int((entry.findtext("difficult") or "0").strip() == "1"),
            }
        )
    file_name = os.path.join(folder, "JPEGImages", f"{image}.jpg")
    size = {"width": width, "height": height}
    return {"file_name": file_name, "image_id": image, **size, "annotations": annotations}


def voc_records(folder: str, split: str, classes: Sequence[str]) -> list[Record]:
    """Read the images of a split of a Pascal VOC folder as Detectron2's dicts.

    Args:
        classes: names of the model's classes, in their order.

    Raises:
        DataError: as `read_voc`, and if an object has another class; names the file.
    """
    records = read_voc(folder, split)
    numbers = {name: index for index, name in enumerate(classes)}
    for record in records:
        for index, entry in enumerate(record["annotations"]):
            name = entry.pop("name")
            if name not in numbers:
                path = os.path.join(folder, "Annotations", f"{record['image_id']}.xml")
                raise DataError(
                    f"{path}: object[{index}] has name={name!r}, expected one of {list(classes)}"
                )
            entry["category_id"] = numbers[name]
    return records
