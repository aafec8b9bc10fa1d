"""The bundled data set `mini`: digits on photographs in COCO's format, generated on first use.

Importing this module registers `mini_train` and `mini_val` with Detectron2's catalogs and the
prefix `mini://` with its PathManager. The first access to a file generates the whole set in the
cache folder (about 30 MB and 10 s), once for all processes.

    $SAMDETR_CACHE, else $XDG_CACHE_HOME/samdetr, else ~/.cache/samdetr
        mini-<hash of the parameters>/train.json  val.json  train/000000.jpg ...  val/...
"""

import dataclasses
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from detectron2.utils.file_io import PathHandler, PathManager
from iopath.common.file_io import file_lock
from PIL import Image

from .digits import (
    NUM_CLASSES,
    VERSION,
    Digit,
    SceneParameters,
    Split,
    load_sources,
    render_scene,
)

MINI_PARAMETERS = SceneParameters()
MINI_COUNTS: dict[Split, int] = {"train": 4000, "val": 500}
MINI_CLASSES = [str(digit) for digit in range(NUM_CLASSES)]

_JPEG_QUALITY = 90
_INFO = {
    "description": "Handwritten digits on photographs",
    "digits": "Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, CC BY 4.0",
    "photographs": "china.jpg by danielbuechele, flower.jpg by vultilion, CC BY 2.0",
}


def cache_folder() -> Path:
    """Return the folder of generated files: `$SAMDETR_CACHE` or one in the user's cache."""
    if chosen := os.environ.get("SAMDETR_CACHE"):
        return Path(chosen).expanduser()
    parent = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(parent).expanduser() / "samdetr"


def mini_folder(
    parameters: SceneParameters = MINI_PARAMETERS, counts: Mapping[Split, int] = MINI_COUNTS
) -> Path:
    """Return the folder of a generated set, and generate it if it does not exist.

    Of several processes one generates and the others wait. The folder is renamed once it is
    complete, so that what a killed process left behind is never used.

    Raises:
        OSError: if the cache folder cannot be written; names it and SAMDETR_CACHE.
        ModuleNotFoundError: if scikit-learn, the source of the images, is not installed.
    """
    described = json.dumps([VERSION, _JPEG_QUALITY, dataclasses.asdict(parameters), dict(counts)])
    folder = cache_folder() / f"mini-{hashlib.sha256(described.encode()).hexdigest()[:12]}"
    if folder.is_dir():
        return folder
    try:
        with file_lock(str(folder)):
            if not folder.is_dir():
                logging.getLogger(__name__).info("Generating the mini data set in %s", folder)
                unfinished = folder.with_name(folder.name + ".partial")
                shutil.rmtree(unfinished, ignore_errors=True)
                write_mini(unfinished, parameters, counts)
                os.replace(unfinished, folder)
    except OSError as error:
        raise OSError(
            f"cannot generate the mini data set in {folder}: {error}. "
            "Set SAMDETR_CACHE to a folder that can be written."
        ) from error
    return folder


def write_mini(folder: Path, parameters: SceneParameters, counts: Mapping[Split, int]) -> None:
    """Write `<split>/*.jpg` and `<split>.json` (COCO's format) of every split into a folder."""
    sources = load_sources()
    for split, count in counts.items():
        (folder / split).mkdir(parents=True, exist_ok=True)
        images, annotations = list[dict[str, Any]](), list[dict[str, Any]]()
        for index in range(count):
            image, digits = render_scene(parameters, sources, split, index)
            name, number = f"{index:06d}.jpg", index + 1
            Image.fromarray(image).save(folder / split / name, quality=_JPEG_QUALITY)
            size = {"width": parameters.size, "height": parameters.size}
            images.append({"id": number, "file_name": name, **size})
            annotations += [_annotation(number, digit) for digit in digits]
        contents = {
            "info": {**_INFO, "parameters": dataclasses.asdict(parameters)},
            "categories": [{"id": i + 1, "name": name} for i, name in enumerate(MINI_CLASSES)],
            "images": images,
            "annotations": [{"id": i, **x} for i, x in enumerate(annotations, 1)],
        }
        (folder / f"{split}.json").write_text(json.dumps(contents))


def _annotation(image_id: int, digit: Digit) -> dict[str, Any]:
    box = {"bbox": list(digit.box), "area": digit.ink.size, "iscrowd": 0}
    return {"image_id": image_id, "category_id": digit.label + 1, **box}


class MiniHandler(PathHandler):
    """Path handler of `mini://val.json` and the like, which generates the set on first use."""

    PREFIX = "mini://"

    def _get_supported_prefixes(self) -> list[str]:
        return [self.PREFIX]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        return str(mini_folder() / path.removeprefix(self.PREFIX))

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> Any:
        return open(self._get_local_path(path), mode, buffering)


def _load(split: Split) -> list[dict[str, Any]]:
    folder = mini_folder()
    return load_coco_json(str(folder / f"{split}.json"), str(folder / split), f"mini_{split}")


PathManager.register_handler(MiniHandler())
for _split in MINI_COUNTS:
    DatasetCatalog.register(f"mini_{_split}", partial(_load, _split))
    # A `mini://` address, because SAMDETR_CACHE may change between import and use and the evaluator
    # may read the file before any loader has generated it.
    MetadataCatalog.get(f"mini_{_split}").set(
        json_file=f"{MiniHandler.PREFIX}{_split}.json",
        image_root=f"{MiniHandler.PREFIX}{_split}",
        evaluator_type="coco",
        thing_classes=MINI_CLASSES,
        thing_dataset_id_to_contiguous_id={i + 1: i for i in range(NUM_CLASSES)},
    )
