"""Annotations in LVIS's format, checked entry by entry; needs the package `lvis`."""

from __future__ import annotations

from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.data.datasets.lvis import get_lvis_instances_meta
from lvis import LVIS

from .errors import DataError, wrong_entry
from .fields import (
    Rule,
    is_area,
    is_box,
    is_finite,
    is_id,
    is_integer,
    is_name,
    is_text,
    wrong_field,
)


class LoadedLvis(LVIS):
    """The index of LVIS's package, of a file whose categories are those of its version of LVIS.

    Detectron2 takes their names from its own list, whatever the file says. A file may have some of
    them alone. Annotations are numbered from 1, for the reason that `CheckedCoco` gives.

    Args:
        annotation_path: a local path.
        name: of the data set in Detectron2's catalogs.

    Raises:
        DataError: names the file, the entry and what would be right.
    """

    def __init__(self, annotation_path: str, name: str):
        self.file = annotation_path
        self.classes = _classes(name)
        super().__init__(annotation_path)

    def _create_index(self) -> None:
        self.dataset.setdefault("annotations", [])  # a test set has none
        rules = self._rules()
        for kind in ("categories", "images"):
            self._check(kind, rules[kind])
        ids = {x: {entry["id"] for entry in self.dataset[x]} for x in ("categories", "images")}
        for kind, found in ids.items():
            if len(found) < len(self.dataset[kind]):
                raise DataError(f"{self.file}: some of the {kind} have the same id")
        self._check("annotations", (*_references(ids), *rules.get("annotations", ())))
        for number, annotation in enumerate(self.dataset["annotations"], 1):
            annotation["id"] = number
        super()._create_index()

    def _rules(self) -> dict[str, tuple[Rule, ...]]:
        wanted = f"the id of one of the {len(self.classes)} categories of this version of LVIS"
        return {
            "categories": (
                ("id", lambda value: is_integer(value) and value in self.classes, wanted),
                ("name", is_name, "text"),
            ),
            "images": (
                ("id", is_id, "an integer of up to 53 bits or text"),
                ("coco_url", is_text, "text"),
            ),
        }

    def _check(self, kind: str, rules: tuple[Rule, ...]) -> None:
        entries = self.dataset.get(kind)
        if not isinstance(entries, list):
            raise DataError(
                f"{self.file} has no list {kind!r}, expected LVIS's format: categories, images, "
                "annotations"
            )
        for index, entry in enumerate(entries):
            fault = wrong_field(entry, rules)
            if not fault and kind == "categories":
                fault = self._wrong_name(entry)
            if fault:
                raise wrong_entry(f"{self.file}: {kind}[{index}]", *fault)

    def _wrong_name(self, category: dict[str, Any]) -> tuple[str, Any, str] | None:
        wanted, synonyms = self.classes[category["id"]], category.get("synonyms")
        first = synonyms[:1] if isinstance(synonyms, list) else []  # which Detectron2 takes
        if wanted in [category["name"], *first]:
            return None
        return "name", category["name"], f"{wanted!r}, which is category {category['id']} of LVIS"


class MeasuredLvis(LoadedLvis):
    """As `LoadedLvis`, with all that LVIS's metric asks for, if there are annotations.

    Raises:
        DataError: names the file, the entry and what would be right.
    """

    def _rules(self) -> dict[str, tuple[Rule, ...]]:
        rules = super()._rules()
        if not self.dataset["annotations"]:
            return rules
        rules["categories"] += (("frequency", lambda value: value in ["r", "c", "f"], "r, c or f"),)
        rules["images"] += tuple(
            (x, _are_integers, "a list of ids of categories")
            for x in ("neg_category_ids", "not_exhaustive_category_ids")
        )
        rules["annotations"] = (
            ("bbox", _is_finite_box, "four finite numbers: x, y, width, height"),
            ("area", is_area, "an area in pixels"),
        )
        return rules


def _is_finite_box(value: Any) -> bool:
    return is_box(value) and all(map(is_finite, value))


def _are_integers(value: Any) -> bool:
    return isinstance(value, list) and all(map(is_integer, value))


def _references(ids: dict[str, set[Any]]) -> tuple[Rule, ...]:
    return tuple(
        (field, lambda value, of=ids[kind]: is_id(value) and value in of, f"that of one of {kind}")
        for field, kind in (("image_id", "images"), ("category_id", "categories"))
    )


def _classes(name: str) -> dict[int, str]:
    """The classes of a data set by the ids of their categories, which count from 1."""
    metadata = MetadataCatalog.get(name).as_dict()
    if "thing_classes" not in metadata:  # Detectron2 sets it as it loads the data set
        metadata = get_lvis_instances_meta(name)
    classes = metadata["thing_classes"]
    numbers = metadata.get("thing_dataset_id_to_contiguous_id") or {
        index + 1: index for index in range(len(classes))
    }
    return {number: classes[index] for number, index in numbers.items()}
