"""Loads registered data sets and looks at them before a training step does.

Detectron2's `get_detection_dataset_dicts` with checks: what is missing is an error that says where
it was looked for, categories have to match the model, and unusable boxes are dropped and counted.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from functools import partial
from unittest.mock import patch

import pycocotools.coco
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.build import (
    filter_images_with_only_crowd_annotations,
    print_instances_class_histogram,
)
from detectron2.data.detection_utils import check_metadata_consistency
from detectron2.utils.file_io import PathManager

from ..errors import printable
from .coco import LoadedCoco
from .errors import DataError, wrong_entry
from .fields import leads_out
from .mini.dataset import MiniHandler
from .records import Record, check_records, drop_unusable_boxes
from .voc import voc_classes

EXTRA = ": pip install 'samdetr[{}]'"  # where a package is missing
# What code that reads a data set raises when something in it is of another kind than it expects.
UNREADABLE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
)
# Metadata that are paths: of data sets in COCO's format, and of Pascal VOC.
_PATHS = {"json_file": "annotation file", "image_root": "image folder", "dirname": "folder"}


def load_detection_dataset(
    names: str | Sequence[str], filter_empty: bool = False, num_classes: int | None = None
) -> list[Record]:
    """Loads one or several registered data sets as one list of images.

    Args:
        names: names in Detectron2's DatasetCatalog.
        filter_empty: leave out images without an object. The paper trains on all images.
        num_classes: K of the model that gets the data; None for any.

    Raises:
        DataError: `names` is empty, a name is not registered, the annotations or the images are not
            where they should be or cannot be read, an entry is not what it should be, there are no
            images, `num_classes` is not the number of categories, no box of a data set is usable,
            or data sets differ in their classes.
    """
    names = [names] if isinstance(names, str) else list(names)
    if not names:
        raise DataError("names is empty: expected at least one registered data set")
    records: list[Record] = []
    for name in names:
        loaded = _load(name)
        check_records(name, loaded, _number_of_classes(name, num_classes))
        records += drop_unusable_boxes(name, loaded)
    if filter_empty:
        records = filter_images_with_only_crowd_annotations(records)
        if not records:
            raise DataError(f"no image of {names} has an object, and filter_empty leaves them out")
    if classes := _classes(names[0]):
        try:
            check_metadata_consistency("thing_classes", names)
        except ValueError as error:
            raise DataError(f"data sets {names} differ in their classes: {error}") from error
        print_instances_class_histogram(records, [printable(x) for x in classes])
    return records


def _load(name: str) -> list[Record]:
    if name not in DatasetCatalog:
        similar = get_close_matches(name, DatasetCatalog, n=3)
        raise DataError(
            f"data set '{name}' is not registered (similar names: {similar}); docs/own_data.md "
            "says how to use your own"
        )
    metadata = MetadataCatalog.get(name)
    for attribute, kind in _PATHS.items():
        _check_exists(name, kind, str(getattr(metadata, attribute, "")))
    try:
        if (folder := metadata.get("dirname")) and metadata.get("split"):
            voc_classes(folder, metadata.split, metadata.thing_classes)
        with _checking(name):
            records = list(DatasetCatalog.get(name))
    except DataError as error:
        raise DataError(f"data set '{name}' cannot be read: {error}") from error
    except UNREADABLE as error:
        path = metadata.get("json_file", "its source")
        raise DataError(f"data set '{name}' cannot be read from {path}: {error!r}") from error
    except ModuleNotFoundError as error:
        hint = EXTRA.format("lvis") if error.name == "lvis" else ""
        raise DataError(f"data set '{name}' cannot be read: {error}{hint}") from error
    if not records:
        raise DataError(f"data set '{name}' has no images")
    return [_completed(name, index, record) for index, record in enumerate(records)]


@contextmanager
def _checking(name: str) -> Iterator[None]:
    """Detectron2 reads COCO's and LVIS's files by classes that it imports as it reads one."""
    with patch.object(pycocotools.coco, "COCO", LoadedCoco):
        if not _is_lvis(name):
            yield
            return
        import lvis

        from .lvis import LoadedLvis

        with patch.object(lvis, "LVIS", partial(LoadedLvis, name=name)):
            yield


def _is_lvis(name: str) -> bool:
    return MetadataCatalog.get(name).get("evaluator_type") == "lvis"


def _completed(name: str, index: int, record: Record) -> Record:
    """An image whose file is there, with annotations and an id, which is that of the evaluators."""
    file = record.get("file_name") if isinstance(record, dict) else None
    if not isinstance(file, str):
        raise wrong_entry(f"data set '{name}': image {index}", "file_name", file, "text")
    folder = os.path.join(str(MetadataCatalog.get(name).get("image_root", "")), "")
    if _is_outside(file, folder, elsewhere=not _is_lvis(name)):
        wanted = f"a file below {folder}"
        raise wrong_entry(f"data set '{name}': image {index}", "file_name", file, wanted)
    if "://" not in file and not os.path.isfile(file):
        _check_exists(name, f"image {index}", file)
        raise wrong_entry(f"data set '{name}': image {index}", "file_name", file, "a file")
    return {"image_id": index, "annotations": [], **record}


def _is_outside(file: str, folder: str, elsewhere: bool) -> bool:
    """If a name is one of a file that an image may not have; links are the user's own.

    Args:
        folder: of the images, with a slash at its end; "" for any.
        elsewhere: if a name may start with another folder. Users' own code may name any file;
            Detectron2 makes the names of LVIS's images of `image_root` and of links in the file.
    """
    if not file.startswith(folder):
        return not elsewhere
    return bool(folder) and leads_out(file.removeprefix(folder).lstrip("/"))


def _check_exists(name: str, kind: str, path: str) -> None:
    if path.startswith(MiniHandler.PREFIX):
        path = PathManager.get_local_path(path)
        hint = "It was generated and got lost: delete the folder, or set SAMDETR_CACHE to another."
    else:
        root = os.environ.get("DETECTRON2_DATASETS", "datasets")
        hint = (
            f"Detectron2's own data sets are looked for in DETECTRON2_DATASETS, now '{root}'; "
            "for one of yours, check the path that it was registered with."
        )
    if path and "://" not in path and not os.path.exists(path):
        raise DataError(
            f"data set '{name}': its {kind} {os.path.abspath(path):.1000} does not exist. {hint}"
        )


def _classes(name: str) -> list[str] | None:
    return getattr(MetadataCatalog.get(name), "thing_classes", None)


def _number_of_classes(name: str, num_classes: int | None) -> int | None:
    """The number of categories of a data set, which must be the model's."""
    classes = _classes(name)
    number = num_classes if classes is None else len(classes)
    if num_classes not in (None, number):
        raise DataError(
            f"data set '{name}' has {number} categories, and the model has num_classes="
            f"{num_classes}: set model.num_classes={number}, or choose another data set"
        )
    return number
