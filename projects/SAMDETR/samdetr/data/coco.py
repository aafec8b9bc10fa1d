"""Annotations in COCO's format, checked entry by entry before pycocotools indexes them."""

from __future__ import annotations

import contextlib
import io
from typing import Any

from detectron2.utils.file_io import PathManager
from pycocotools.coco import COCO

from .errors import DataError, shown, wrong_entry
from .fields import (
    Rule,
    is_area,
    is_box,
    is_crowd,
    is_id,
    is_integer,
    is_name,
    is_side,
    is_text,
    leads_out,
    wrong_field,
)

_REQUIRED: dict[str, tuple[Rule, ...]] = {
    "categories": (("id", is_integer, "an integer of up to 53 bits"), ("name", is_name, "text")),
    "images": (
        ("id", is_id, "an integer of up to 53 bits or text"),
        ("file_name", is_text, "text"),
        ("width", is_side, "a whole number of pixels"),
        ("height", is_side, "a whole number of pixels"),
    ),
    "annotations": (
        ("image_id", is_id, "an integer of up to 53 bits or text"),
        ("category_id", is_integer, "an integer of up to 53 bits"),
        ("bbox", is_box, "four numbers: x, y, width, height"),
    ),
}
_OPTIONAL: dict[str, tuple[Rule, ...]] = {
    "annotations": (
        ("iscrowd", is_crowd, "0 or 1"),
        ("area", is_area, "an area in pixels"),
        # Detectron2 knows no other.
        ("ignore", lambda value: is_crowd(value) and not value, "0"),
    )
}


class CheckedCoco(COCO):
    """pycocotools' index of annotations, every one of which is checked first.

    They are numbered from 1, whatever their `id`: evaluators take an object with an id of 0 or less
    for one that no detection matches, and of two with the same id they see one.

    Args:
        annotation_file: a local path.

    Raises:
        DataError: names the file, the entry and what would be right.
    """

    def __init__(self, annotation_file: str | None = None):
        self.file = annotation_file
        try:
            super().__init__(annotation_file)
        except DataError:
            raise
        except (ValueError, RecursionError) as error:  # of the JSON or of its encoding
            raise DataError(f"{annotation_file} is not a JSON file: {error}") from error
        except AssertionError as error:
            raise DataError(f"{annotation_file} does not hold a dict: {error}") from error

    def createIndex(self) -> None:
        """Check, number and index what there is."""
        ids = {kind: self._check_ids(kind) for kind in ("categories", "images")}
        names = [category["name"] for category in self.dataset["categories"]]
        if not names or len(set(names)) < len(names):
            raise DataError(f"{self.file}: categories are {shown(names)}, expected distinct names")
        if len(set(map(type, ids["images"]))) > 1:
            raise DataError(f"{self.file}: some ids of images are integers and some are text")
        self._check_annotations(ids)
        for number, annotation in enumerate(self.dataset.get("annotations", []), 1):
            annotation["id"] = number
        super().createIndex()

    def _check_ids(self, kind: str) -> set[Any]:
        ids: set[Any] = set()
        for index, entry in enumerate(self._entries(kind)):
            if entry["id"] in ids:
                raise self._wrong(kind, index, "id", entry["id"], "an id that no other has")
            ids.add(entry["id"])
        return ids

    def _check_annotations(self, ids: dict[str, set[Any]]) -> None:
        for index, entry in enumerate(self._entries("annotations")):
            for field, kind in (("image_id", "images"), ("category_id", "categories")):
                if entry[field] not in ids[kind]:
                    wanted = f"the id of one of the {kind}"
                    raise self._wrong("annotations", index, field, entry[field], wanted)

    def _entries(self, kind: str) -> list[dict[str, Any]]:
        """The entries of a kind, which are as they have to be."""
        entries = self.dataset.get(kind, [] if kind == "annotations" else None)
        if not isinstance(entries, list):
            raise DataError(
                f"{self.file} has no list {kind!r}, expected COCO's format: {', '.join(_REQUIRED)}"
            )
        for index, entry in enumerate(entries):
            if fault := wrong_field(entry, _REQUIRED[kind], _OPTIONAL.get(kind, ())):
                raise self._wrong(kind, index, *fault)
        return entries

    def _wrong(self, kind: str, index: int, field: str, value: Any, wanted: str) -> DataError:
        return wrong_entry(f"{self.file}: {kind}[{index}]", field, value, wanted)


class LoadedCoco(CheckedCoco):
    """As `CheckedCoco`, for training: of a file whose images get opened.

    Their names may not lead out of the folder of the images. Segmentations and keypoints, of which
    boxes need nothing, are left out unread.
    """

    def createIndex(self) -> None:
        """Check, number and index what there is."""
        super().createIndex()
        for index, image in enumerate(self.dataset["images"]):
            if leads_out(image["file_name"]):
                wanted = "a path below the folder of the images"
                raise self._wrong("images", index, "file_name", image["file_name"], wanted)
        for annotation in self.dataset.get("annotations", []):
            annotation.pop("segmentation", None)
            annotation.pop("keypoints", None)


def read_coco(path: str) -> dict[str, Any]:
    """Reads and checks a file of annotations.

    Raises:
        DataError: as `LoadedCoco`.
    """
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
        contents: dict[str, Any] = LoadedCoco(PathManager.get_local_path(path)).dataset
    return contents
