"""Readers of annotations: one function per format, which returns Detectron2's dicts.

Readers take files as annotation tools write them. A box that is not four finite numbers is kept as
NaN, so that training and evaluation drop and count it in one place. Category ids are those of the
files, by which `Annotations.names` has the class names.

Units: pixels.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import yaml
from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager

from ..errors import DataError
from .bands import image_size
from .images import IMAGE_SUFFIXES

Record = dict[str, Any]
"""An image or an annotation, in Detectron2's format unless stated otherwise."""


class Annotations(NamedTuple):
    """Annotations of a data set as its reader found them."""

    records: list[Record]  # Detectron2's dicts, with the data set's own category ids
    names: dict[Any, str]  # class names by category id, in the order of the model's classes
    doubts: Counter[str]  # entries that were understood in part or not at all, by kind


def absolute(path: str, folder: str = "") -> str:
    """Return the absolute form of a path that is relative to a folder; URLs are absolute."""
    return path if "://" in path else os.path.abspath(os.path.join(folder, path))


def whole(value: Any) -> Any:
    """Return a whole number, also one as float or text, as an int; anything else as it is."""
    try:
        number = float(value)
        return int(number) if number.is_integer() else value
    except (TypeError, ValueError, OverflowError):
        return value


def four_numbers(box: Any) -> list[float]:
    """Return the coordinates of a box as floats, all NaN if they are not four finite numbers."""
    try:
        numbers = [float(number) for number in box]
    except (TypeError, ValueError, OverflowError):
        return [math.nan] * 4
    finite = len(numbers) == 4 and all(map(math.isfinite, numbers))
    return numbers if finite else [math.nan] * 4


def around(points: Sequence[float]) -> list[float]:
    """Return the box XYXY around points `x, y, x, y, ...`."""
    x, y = points[0::2], points[1::2]
    return [min(x), min(y), max(x), max(y)]


def located(name: str, *folders: str) -> str:
    """Return the path of a file that is named relative to one of the folders.

    Of a path on another machine, the longest end that exists below a folder is taken.
    """
    parts = [x for x in name.replace("\\", "/").split("/") if x not in ("", ".")]
    first = os.path.join(folders[0], name if os.path.isabs(name) else "/".join(parts))
    if os.path.exists(first):
        return first
    ends = (os.path.join(x, *parts[i:]) for i in range(len(parts)) for x in folders)
    return next(filter(os.path.exists, ends), first)


def voc_records(folder: str, split: str) -> Annotations:
    """Read the images of `ImageSets/Main/SPLIT.txt` of a Pascal VOC folder.

    Classes are in alphabetical order and have their names as ids; annotations have `difficult`.

    Raises:
        FileNotFoundError: if there is no such list.
        DataError: if an annotation file cannot be read; names it.
    """
    path = os.path.join(folder, "ImageSets", "Main", f"{split}.txt")
    with PathManager.open(path) as file:
        images = [line.split()[0] for line in file if line.strip()]
    records = [_voc_record(folder, image) for image in images]
    names = {x["category_id"] for record in records for x in record["annotations"]}
    return Annotations(records, {name: name for name in sorted(names)}, Counter())


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
                "category_id": (entry.findtext("name") or "").strip(),
                # VOC counts pixels from 1 and includes the last one.
                "bbox": [left - 1, top - 1, right, bottom],
                "bbox_mode": BoxMode.XYXY_ABS,
                "difficult": int((entry.findtext("difficult") or "0").strip() == "1"),
            }
        )
    stem = os.path.join(folder, "JPEGImages", image)
    options = (stem + suffix for suffix in IMAGE_SUFFIXES)
    file = next(filter(os.path.isfile, options), f"{stem}.jpg")
    return _record(file, (width, height), annotations) | {"image_id": image}


def _record(file: str | Path, size: tuple[int, int], annotations: list[Record]) -> Record:
    size_of = dict(zip(("width", "height"), size))
    return {"file_name": str(file), **size_of, "annotations": annotations}


def _yolo_content(path: str) -> dict[str, Any]:
    """Read a `data.yaml` of YOLO: class names by index as `names`, and the paths of its parts."""
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8-sig"))
        names = content.get("names") or range(content["nc"])
        pairs = names.items() if isinstance(names, dict) else enumerate(names)
        named = {int(index): str(name) for index, name in pairs}
    except (AttributeError, KeyError, TypeError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"{path} is not a data.yaml of YOLO with `names`: {error!r}") from error
    if twice := [name for name, count in Counter(named.values()).items() if count > 1]:
        raise DataError(f"{path}: names has {twice[0]!r} for two classes")
    return {**content, "names": named}


def yolo_records(path: str, part: str) -> Annotations:
    """Read a part of a YOLO data set: an image has a text file, a line for each object.

    Args:
        path: of the `data.yaml`.
        part: its key, such as `train`, with a folder, a text file of image paths, or a list of
            these. Labels are where YOLO looks for them: in `labels` for images in `images`, else
            beside the images. An image without such a file has no objects.

    Raises:
        DataError: if `names` is missing or has a name twice, a path does not exist, or a line has
            a class that `names` lacks; names it.
    """
    content, records = _yolo_content(path), []
    names, mode = content["names"], {"bbox_mode": BoxMode.XYXY_ABS}
    for file in _yolo_files(path, content, part):
        annotations, labels, size = [], _yolo_labels(file), image_size(file)
        lines = labels.read_text(encoding="utf-8-sig").splitlines() if labels.is_file() else ()
        for number, words in enumerate(map(str.split, lines), 1):
            if words and (category := whole(words[0])) not in names:
                known = f"0 to {len(names) - 1}"
                raise DataError(f"{labels}:{number} has class {words[0]}, and {path} has {known}")
            if words:
                sides = _yolo_box(words[1:], "kpt_shape" in content)
                box = [side * scale for side, scale in zip(sides, size * 2)]
                annotations.append({"category_id": category, "bbox": box, **mode})
        records.append(_record(file, size, annotations))
    return _numbered(records, names)


def _yolo_box(numbers: Sequence[str], keypoints: bool) -> list[float]:
    """Return the box XYXY, in fractions of the image, of the numbers after the class."""
    try:
        values = [float(x) for x in numbers]
    except ValueError:
        return [math.nan] * 4
    if len(values) >= 6 and len(values) % 2 == 0 and not keypoints:
        return four_numbers(around(values))  # a polygon
    x, y, width, height = four_numbers(values[:4])
    return [x - width / 2, y - height / 2, x + width / 2, y + height / 2]


def _yolo_files(path: str, content: Mapping[str, Any], part: str) -> list[Path]:
    """List the images of a part of a `data.yaml`."""
    folder = os.path.dirname(os.path.abspath(path))
    # A `path` that does not exist is one of the machine on which the file was written.
    folders = [os.path.join(folder, str(content.get("path") or "")), folder]
    named, found = content[part], []
    for name in [named] if isinstance(named, str) else named:
        place = Path(located(name, *folders))
        if place.is_dir():
            found += sorted(x for x in place.rglob("*") if x.suffix.lower() in IMAGE_SUFFIXES)
        elif place.is_file():
            lines = map(str.strip, place.read_text(encoding="utf-8-sig").split("\n"))
            found += [Path(located(x, str(place.parent), *folders)) for x in lines if x]
        else:
            raise DataError(f"{path}: {part} is {name}, but {place} does not exist")
    return found


def _yolo_labels(image: Path) -> Path:
    """Return the file with the objects of an image: YOLO replaces the last `images` of its path."""
    parts = str(image).rsplit(f"{os.sep}images{os.sep}", 1)
    return Path(f"{os.sep}labels{os.sep}".join(parts)).with_suffix(".txt")


def folder_records(folder: str) -> Annotations:
    """Read an image folder of Hugging Face, whose `metadata.jsonl` has a line for each image.

    A line has `file_name` and `objects` with lists `bbox` (x, y, width, height) and `category` or
    `categories`, which are names or numbers.

    Raises:
        DataError: if a line is not of this form; names it.
    """
    path = Path(folder, "metadata.jsonl")
    records, categories = [], set()
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            objects = entry.get("objects") or {"bbox": []}
            kinds = objects.get("category", objects.get("categories", []))
            boxes = [four_numbers(box) for box in objects["bbox"]]
            pairs = list(zip(kinds, boxes, strict=True))
            file = path.parent / entry["file_name"]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{path}:{number} is not an image with `file_name` and `objects` of `bbox` and "
                f"`category`: {error!r}"
            ) from error
        categories.update(kinds)
        mode = {"bbox_mode": BoxMode.XYWH_ABS}
        annotations = [{"category_id": kind, "bbox": box, **mode} for kind, box in pairs]
        records.append(_record(file, image_size(file), annotations))
    return _numbered(records, {x: str(x) for x in ordered(categories)})


def ordered(ids: Iterable[Any]) -> list[Any]:
    """Sort category ids: numbers, then text."""
    return sorted(ids, key=lambda x: (isinstance(x, str), x))


def _numbered(records: list[Record], names: dict[Any, str]) -> Annotations:
    """Give images their file names as ids, with folders where two have the same name."""
    paths = [record["file_name"] for record in records]
    ids = [os.path.basename(path) for path in paths]
    if len(set(ids)) < len(ids):
        common = os.path.commonpath(paths)
        ids = [os.path.relpath(path, common) for path in paths]
    for record, image_id in zip(records, ids):
        record["image_id"] = image_id
    return Annotations(records, names, Counter())
