"""Where pictures go, and detections in the format of COCO's results."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from detectron2.data import Metadata
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Instances

from ..inputs import VIDEO_SUFFIXES, InputError, is_video

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png")  # what pictures are written as
MOVIE = ".mp4"


def output_files(inputs: Sequence[Path], output: Path) -> dict[Path, Path]:
    """For each input the file that its picture or video is written to.

    Args:
        inputs: images and videos.
        output: of one input a file of the same kind, else a folder.

    Raises:
        InputError: if `output` is not what it should be, two inputs would become one file, or one
            would be overwritten.
    """
    if output.suffix.lower() in PICTURE_SUFFIXES + VIDEO_SUFFIXES and not output.is_dir():
        kind = VIDEO_SUFFIXES if is_video(inputs[0]) else PICTURE_SUFFIXES
        if len(inputs) > 1 or output.suffix.lower() not in kind:
            what = f"{len(inputs)} inputs" if len(inputs) > 1 else str(inputs[0])
            raise InputError(f"{output} is the name of a file that {what} cannot become")
        files = {inputs[0]: output}
    else:
        files = {x: output / _name(x) for x in inputs}
    _check_distinct(files)
    return files


def _name(file: Path) -> str:
    if is_video(file):
        return file.stem + MOVIE
    return file.name if file.suffix.lower() in PICTURE_SUFFIXES else f"{file.name}.png"


def _check_distinct(files: dict[Path, Path]) -> None:
    taken = {source.resolve(): source for source in files}
    for source, target in files.items():
        if target.resolve() in taken:
            raise InputError(
                f"{target} would be written over {taken[target.resolve()]}: name another output"
            )
        taken[target.resolve()] = source


class Annotations(NamedTuple):
    """What a COCO annotation file calls its images and categories."""

    path: Path
    images: list[tuple[str, int]]  # names without folders, and ids
    categories: dict[str, int]

    @classmethod
    def read(cls, path: Path) -> Annotations:
        """Read a file.

        Raises:
            InputError: if it is not there or is no COCO file.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            images = [(Path(x["file_name"]).name, int(x["id"])) for x in content["images"]]
            categories = {x["name"]: int(x["id"]) for x in content["categories"]}
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise InputError(f"{path} cannot be read as COCO annotations: {error!r}") from error
        return cls(path, images, categories)

    def image_ids(self, files: Sequence[Path]) -> dict[Path, int]:
        """The ids of images, found by their names.

        Raises:
            InputError: if one is not there, or more than once.
        """
        ids, counts = dict(self.images), Counter(name for name, _ in self.images)
        for file in files:
            if counts[file.name] != 1:
                raise InputError(
                    f"{self.path} has {counts[file.name]} images named {file.name}, expected 1"
                )
        return {file: ids[file.name] for file in files}

    def category_ids(self, classes: Sequence[str]) -> dict[int, int]:
        """The ids of the detector's classes, found by their names.

        Raises:
            InputError: if one is not there.
        """
        for name in classes:
            if name not in self.categories:
                raise InputError(f"{self.path} has no category {name!r}, which the detector has")
        return {index: self.categories[name] for index, name in enumerate(classes)}


def category_ids(metadata: Metadata, annotations: Annotations | None) -> dict[int, int]:
    """The id of each class in the results: by annotations, else by the data set, else its index.

    Raises: as `Annotations.category_ids`.
    """
    classes = metadata.get("thing_classes")
    if annotations and classes:
        return annotations.category_ids(classes)
    ids = metadata.get("thing_dataset_id_to_contiguous_id") or {}
    return {index: category for category, index in ids.items()}


class CocoResults:
    """Detections as COCO's tools take them: `image_id`, `category_id`, `bbox` and `score` of each.

    Args:
        categories: ids of the detector's classes; those that it has not are their own.

    Attributes:
        images: number of images that were added.
        entries: the detections.
    """

    def __init__(self, categories: dict[int, int]):
        self.categories = categories
        self.images = 0
        self.entries: list[dict[str, Any]] = []

    def add(self, instances: Instances, image_id: int, **source: str | int) -> None:
        """What was found in one image; `source` is added to each entry and tells where it is from.

        COCO's tools do not mind keys that they do not know.
        """
        self.images += 1
        for entry in instances_to_coco_json(instances, image_id):
            entry["category_id"] = self.categories.get(entry["category_id"], entry["category_id"])
            self.entries.append({**entry, **source})

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(self.entries), encoding="utf-8")
