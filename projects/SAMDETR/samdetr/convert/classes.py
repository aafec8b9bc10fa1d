"""Rows of the class heads: one for each of COCO's ids, or one for each of its 80 classes."""

from __future__ import annotations

import re
from collections.abc import Mapping

from detectron2.data import MetadataCatalog
from torch import Tensor

from .rules import ConversionError, StateDict

ROWS = re.compile(r"decoder\.heads\.\d+\.classes\.|denoising\.labels\.")
UNUSED = -100.0  # logit of an id that no object of COCO has: its score is 0


def coco80(state: Mapping[str, Tensor]) -> StateDict:
    """Converted weights with the class rows of COCO's 80 classes alone, in Detectron2's order.

    The official models have a row for each of COCO's category ids, 0 to 90.

    Raises:
        ConversionError: if a head has fewer rows.
    """
    return {k: v[coco_class_rows(len(v))] if ROWS.match(k) else v for k, v in state.items()}


def coco91(state: Mapping[str, Tensor]) -> StateDict:
    """The way back: a row for each of the ids 0 to 90, of which those without a class never fire.

    Raises:
        ConversionError: if a head has another number of rows than 80.
    """
    return {k: _spread(v, k) if ROWS.match(k) else v for k, v in state.items()}


def coco_class_rows(count: int) -> list[int]:
    """Rows of COCO's 80 classes, in Detectron2's order, among `count` category ids from 0."""
    ids = MetadataCatalog.get("coco_2017_val").thing_dataset_id_to_contiguous_id
    if count <= max(ids):
        raise ConversionError(f"expected a row for each COCO id up to {max(ids)}, got {count} rows")
    return sorted(ids, key=ids.get)


def _spread(rows: Tensor, name: str) -> Tensor:
    ids = coco_class_rows(91)
    if len(rows) != len(ids):
        raise ConversionError(f"{name} has {len(rows)} rows, expected one for each of 80 classes")
    spread = rows.new_full((max(ids) + 1, *rows.shape[1:]), UNUSED if rows.dim() == 1 else 0.0)
    spread[ids] = rows
    return spread
