"""Annotations in COCO's and LVIS's formats, as annotation tools write them.

Detectron2's readers stop at annotation ids that are missing, zero or repeated, `null` fields,
invalid polygons and a list with one image. These readers accept them, and numbers as text.

Units: pixels.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from detectron2.data.datasets.lvis import get_lvis_instances_meta
from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager

from ..errors import DataError
from .annotations import Annotations, Record, around, four_numbers, located, ordered
from .images import image_size

KINDS = ("categories", "images")
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
    lists = [contents.get(kind) for kind in KINDS] if isinstance(contents, dict) else []
    if not lists or not all(entries and isinstance(entries, list) for entries in lists):
        raise DataError(f"{path} is not in COCO's format: expected lists 'categories' and 'images'")
    found: dict[str, Any] = {kind: contents[kind] for kind in KINDS}
    for kind in KINDS:
        _check_unique(path, kind, "id", found[kind])
    for entry in found["categories"]:
        entry["name"] = str(entry["id"] if entry.get("name") in (None, "") else entry["name"])
    _check_unique(path, "categories", "name", found["categories"])
    found["doubts"] = Counter[str]()
    if contents.get("annotations") is not None:
        found["annotations"] = _annotations(path, contents["annotations"], found)
    return found


def _check_unique(path: str, kind: str, field: str, entries: list[Record]) -> None:
    """Check a field of all entries, and make numbers of ids that are whole numbers in text."""
    values = set()
    for index, entry in enumerate(entries):
        value = entry.get(field) if isinstance(entry, dict) else None
        if field == "id" and (kind == "categories" or not isinstance(value, str)):
            value = entry["id"] = whole(value)
        if value in (None, "") or value in values:
            problem = "not unique" if value in values else "missing"
            raise DataError(f"{path}: {kind}[{index}] has {field}={value!r}, which is {problem}")
        values.add(value)


def whole(value: Any) -> Any:
    """Return a whole number, also one as float or text, as an int; anything else as it is."""
    try:
        number = float(value)
        return int(number) if number.is_integer() else value
    except (TypeError, ValueError, OverflowError):
        return value


def _annotations(path: str, entries: list[Record], found: dict[str, Any]) -> list[Record]:
    """Return the annotations, less those whose image is unknown."""
    images, categories = (Ids(entry["id"] for entry in found[kind]) for kind in KINDS[::-1])
    doubts: Counter[str] = found["doubts"]
    kept: list[Record] = []
    for index, entry in enumerate(entries):
        try:
            image, category = images[entry.get("image_id")], categories[entry.get("category_id")]
            if category is None:
                raise DataError(
                    f"{path}: annotations[{index}] has category_id={entry.get('category_id')!r}, "
                    "which is the id of none of the categories"
                )
            if image is None:
                doubts["annotations of images that the file does not have, left out"] += 1
            else:
                kept.append(_annotation(len(kept) + 1, image, category, entry, doubts))
        except (AttributeError, TypeError) as error:
            raise DataError(f"{path}: annotations[{index}] is {entry!r}: {error}") from error
    return kept


class Ids(dict[Any, Any]):
    """Ids of a file by themselves and, where only one fits, by the whole numbers they stand for.

    A value that is no id gives None.
    """

    def __init__(self, ids: Iterable[Any]):
        super().__init__((x, x) for x in ids)
        texts = [x for x in self if isinstance(x, str)]
        numbers = Counter(whole(x) for x in texts)
        self.update({whole(x): x for x in texts if numbers[whole(x)] == 1 and whole(x) not in self})

    def __missing__(self, value: Any) -> Any:
        return self.get(whole(value))


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
    if area is None or isinstance(area, str):
        area = float(area) if area else size
    elif area > 1.05 * size + 1 or area < 0.01 * size:  # that of a mask is smaller than the box
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


def coco_records(path: str, image_root: str) -> Annotations:
    """Read a file in COCO's format; categories are ordered by their ids.

    Args:
        path: of the annotation file.
        image_root: folder that file names are relative to; see `located`.
    """
    contents = read_coco(path)
    names = {category["id"]: category["name"] for category in contents["categories"]}
    remote = "://" in image_root

    def file_name(image: Record) -> str:
        name = image["file_name"]
        return f"{image_root.rstrip('/')}/{name}" if remote else located(name, image_root)

    records = _records(path, contents, file_name)
    return Annotations(records, {x: names[x] for x in ordered(names)}, contents["doubts"])


def lvis_records(name: str, path: str, image_root: str) -> Annotations:
    """Read a file in LVIS's format, whose classes are those of a version of LVIS.

    Args:
        name: of the registered data set, which contains the version.
        path, image_root: as for `coco_records`.

    Raises:
        DataError: as `read_coco`, and if a category is not the one that LVIS has under its id.
    """
    contents = read_coco(path)
    metadata = get_lvis_instances_meta(name)
    classes = metadata["thing_classes"]
    ids = metadata.get("thing_dataset_id_to_contiguous_id")
    names = {x: classes[i] for x, i in (ids or {i + 1: i for i in range(len(classes))}).items()}
    for index, category in enumerate(contents["categories"]):
        expected = names.get(category["id"])
        # Detectron2 names a category by its first synonym.
        if expected not in (category["name"], *category.get("synonyms", [])[:1]):
            raise DataError(
                f"{path}: categories[{index}] has name={category['name']!r}, but category "
                f"{category['id']} of this version of LVIS is {expected!r}"
            )

    def file_name(image: Record) -> str:
        return image_root + "/".join(image["coco_url"].split("/")[-2:])

    return Annotations(_records(path, contents, file_name), names, contents["doubts"])


def _records(
    path: str, contents: Mapping[str, Any], file_name: Callable[[Record], str]
) -> list[Record]:
    """Return Detectron2's dicts; sizes that the file lacks are read from the images."""
    annotations = defaultdict(list)
    for entry in contents.get("annotations", []):
        image_id = entry.pop("image_id")
        del entry["id"], entry["area"]
        entry["bbox_mode"] = BoxMode.XYWH_ABS
        annotations[image_id].append(entry)
    records = []
    for image in sorted(contents["images"], key=lambda x: (isinstance(x["id"], str), x["id"])):
        try:
            file = file_name(image)
            size = image.get("width"), image.get("height")
            width, height = map(int, map(float, size)) if all(size) else image_size(file)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{path}: image {image['id']!r} needs a file name, width and height: {error!r}"
            ) from error
        records.append(
            {
                "file_name": file,
                "width": width,
                "height": height,
                "image_id": image["id"],
                "annotations": annotations[image["id"]],
            }
        )
    return records
