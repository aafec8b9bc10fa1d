"""Annotations in COCO's and LVIS's formats, as annotation tools write them.

Detectron2's readers stop at annotation ids that are missing, zero or repeated, `null` fields,
invalid polygons and a list with one image. These readers accept them, and numbers as text.

Units: pixels.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager

from ..errors import DataError
from .annotations import Annotations, Record, around, four_numbers, located, ordered, whole
from .bands import image_size

KINDS = ("categories", "images")
COCO_URL = "http://images.cocodataset.org/"  # before the folder and name of an image
FALSE = {"", "0", "0.0", "false", "none", "null", "no"}


def read_coco(path: str) -> dict[str, Any]:
    """Read a file in COCO's or LVIS's format.

    Annotations are reduced to what box detection needs, with `area` and `iscrowd` filled in
    (`ignore` counts as `iscrowd`). They are numbered from 1: pycocotools treats an object with id 0
    as never matched, and two objects with one id as the same. Null and empty fields are absent, and
    whole numbers may be floats or text.

    Returns:
        `categories`, `images`, unless the file is of a test set `annotations`, and `doubts`: the
        number of entries by kind that were left out or contradict others.

    Raises:
        DataError: if the file is not of this format, ids or category names are not unique, or an
            annotation refers to an unknown category; names the file and the entry.
    """
    try:
        contents = json.loads(Path(PathManager.get_local_path(path)).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(contents, dict) or not all(contents.get(kind) for kind in KINDS):
        raise DataError(f"{path} is not in COCO's format: expected lists 'categories' and 'images'")
    found: dict[str, Any] = {kind: contents[kind] for kind in KINDS}
    for image in found["images"]:
        if not isinstance(number := image.get("id"), str):
            image["id"] = whole(number)
    for category in found["categories"]:
        number, name = whole(category.get("id")), category.get("name")
        category.update(id=number, name=str(number if name in (None, "") else name))
    for kind, field in (("images", "id"), ("categories", "id"), ("categories", "name")):
        _check_unique(path, kind, field, found[kind])
    found["doubts"] = Counter[str]()
    if contents.get("annotations") is not None:
        found["annotations"] = _annotations(path, contents["annotations"], found)
    return found


def _check_unique(path: str, kind: str, field: str, entries: list[Record]) -> None:
    values = {None}
    for index, entry in enumerate(entries):
        if (value := entry[field]) in values:
            raise DataError(f"{path}: {kind}[{index}] has {field}={value!r}, expected a unique one")
        values.add(value)


def _annotations(path: str, entries: list[Record], found: dict[str, Any]) -> list[Record]:
    """Return the annotations, less those whose image is unknown."""
    images, categories = (_by_number(found[kind]) for kind in KINDS[::-1])
    doubts: Counter[str] = found["doubts"]
    kept: list[Record] = []
    for index, entry in enumerate(entries):
        category = _find(categories, entry.get("category_id"))
        image = _find(images, entry.get("image_id"))
        if category is None:
            raise DataError(
                f"{path}: annotations[{index}] has category_id={entry.get('category_id')!r}, "
                "which is the id of none of the categories"
            )
        if image is None:
            doubts["annotations of images that the file does not have, left out"] += 1
        else:
            kept.append(_annotation(len(kept) + 1, image, category, entry, doubts))
    return kept


def _by_number(entries: list[Record]) -> dict[Any, Any]:
    """Map ids, and the whole numbers that ids in text stand for, to the ids."""
    ids = [entry["id"] for entry in entries]
    return {**{whole(x): x for x in ids}, **dict(zip(ids, ids))}


def _find(ids: Mapping[Any, Any], value: Any) -> Any:
    return ids[value] if value in ids else ids.get(whole(value))


def _annotation(
    number: int, image: Any, category: Any, entry: Record, doubts: Counter[str]
) -> Record:
    sides = entry.get("bbox")
    if not sides and (polygons := entry.get("segmentation")) and isinstance(polygons, list):
        left, top, right, bottom = around([float(x) for polygon in polygons for x in polygon])
        sides = [left, top, right - left, bottom - top]
    box = four_numbers(sides)
    size = max(box[2], 0) * max(box[3], 0)
    area = entry.get("area")
    area = size if area in (None, "") else float(area)
    if area > 1.05 * size + 1 or area < 0.01 * size:  # that of a mask is smaller than the box
        doubts["values of `area`, by which COCO's AP tells sizes apart, contradict the boxes"] += 1
    crowd = entry.get("iscrowd") or entry.get("ignore")
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": box,
        "area": area,
        "iscrowd": int(bool(crowd) and str(crowd).strip().lower() not in FALSE),
    }


def coco_records(path: str, image_root: str, file_key: str = "file_name") -> Annotations:
    """Read a file in COCO's or LVIS's format; categories are ordered by their ids.

    Args:
        path: of the annotation file.
        image_root: folder that file names are relative to; see `located`.
        file_key: of the names of image files: `coco_url` in LVIS's format.

    Raises:
        DataError: as `read_coco`, and if an image has no file name.
        ImageError: if an image has no size and its file cannot be read.
    """
    contents = read_coco(path)
    annotations = defaultdict(list)
    for entry in contents.get("annotations", []):
        image_id = entry.pop("image_id")
        del entry["id"], entry["area"]
        entry["bbox_mode"] = BoxMode.XYWH_ABS
        annotations[image_id].append(entry)
    images = {image["id"]: image for image in contents["images"]}
    records = []
    for number in ordered(images):
        if not (name := images[number].get(file_key)):
            raise DataError(f"{path}: image {number!r} needs a file name, `{file_key}`")
        file = located(name.removeprefix(COCO_URL), image_root)
        width, height = (whole(images[number].get(x)) for x in ("width", "height"))
        if not width or not height:
            width, height = image_size(file)
        own = {"image_id": number, "annotations": annotations[number]}
        records.append({"file_name": file, "width": width, "height": height, **own})
    names = {category["id"]: category["name"] for category in contents["categories"]}
    return Annotations(records, {x: names[x] for x in ordered(names)}, contents["doubts"])
