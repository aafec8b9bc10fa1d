"""Evaluators: COCO's AP on any registered set, a quicker way to the same figures, LVIS's AP, VOC's.

All are Detectron2's. They write their detections into `output_dir`, which is `inference/` in a
run's folder: `coco_instances_results.json` or `lvis_instances_results.json`, in COCO's format of
results, and `instances_predictions.pth`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator, coco_evaluation, pascal_voc_evaluation
from detectron2.evaluation import LVISEvaluator as Detectron2LVISEvaluator
from detectron2.evaluation import PascalVOCDetectionEvaluator as Detectron2VOCEvaluator

from .data.coco import CheckedCoco
from .data.datasets import EXTRA, UNREADABLE
from .data.errors import DataError
from .data.fields import is_finite, is_integer
from .data.voc import voc_truth
from .errors import ConfigError, printable

TASKS = ["bbox"]


class DetectionEvaluator(COCOEvaluator):
    """COCO's AP, in all and per category, of any registered set.

    A set that is not in COCO's format is converted into `output_dir`. Ground truth may lack `area`,
    for which the box's is taken, and `iscrowd`, which then is 0: COCO's code needs both, and
    people's files often have neither.

    Args:
        dataset_name: name in Detectron2's catalogs.
        output_dir: folder that detections are written into; None for nowhere.
        tasks: boxes alone, which are what is detected.
        max_dets_per_image: how many detections of an image and a category count, those of the
            highest scores, or COCO's three such limits; AP has the last one.
        options: for Detectron2's `COCOEvaluator`.

    Raises:
        ConfigError: if `tasks` or `max_dets_per_image` is something else.
        DataError: if the set cannot be read, or if it is not in COCO's format and there is no
            `output_dir`.
    """

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | None = None,
        tasks: Sequence[str] | None = None,
        max_dets_per_image: int | Sequence[int] | None = None,
        **options: Any,
    ):
        _check_tasks(tasks)
        limits = _limits(max_dets_per_image)
        with _naming(dataset_name), patch.object(coco_evaluation, "COCO", CheckedCoco):
            # A converted set may be others' images by now: it is not taken from before.
            super().__init__(
                dataset_name, TASKS, output_dir=output_dir, allow_cached_coco=False, **options
            )
        self._max_dets_per_image = limits
        self._leave_out_infinite()
        for annotation in self._coco_api.dataset.get("annotations", []):
            _, _, width, height = annotation["bbox"]
            annotation.setdefault("area", max(width, 0) * max(height, 0))
            annotation.setdefault("iscrowd", 0)

    def _leave_out_infinite(self) -> None:
        annotations = self._coco_api.dataset.get("annotations", [])
        finite = _finite(annotations, self._logger)
        if len(finite) < len(annotations):
            self._coco_api.dataset["annotations"] = finite
            with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
                self._coco_api.createIndex()

    def _derive_coco_results(
        self, coco_eval: Any, iou_type: str, class_names: Sequence[str] | None = None
    ) -> dict[str, float]:
        """As in Detectron2, which prints the names."""
        names = class_names and [printable(name) for name in class_names]
        figures: dict[str, float] = super()._derive_coco_results(coco_eval, iou_type, names)
        return figures


class FasterDetectionEvaluator(DetectionEvaluator):
    """The same figures from the same files, by the compiled code of faster-coco-eval; boxes alone.

    Args: those of `DetectionEvaluator`. Images must have integer ids, as COCO's have.

    Raises:
        DataError: as `DetectionEvaluator`, and if ids are text.
        ModuleNotFoundError: names the extra that brings the package.
    """

    def __init__(self, dataset_name: str, output_dir: str | None = None, **options: Any):
        _require("faster_coco_eval", "eval")
        super().__init__(dataset_name, output_dir, **options)
        if any(isinstance(x, str) for x in self._coco_api.imgs):
            raise DataError(
                f"data set '{dataset_name}': the ids of its images are text, and faster-coco-eval "
                "takes integers: evaluate it with samdetr.evaluation.DetectionEvaluator"
            )

    def _eval_predictions(
        self, predictions: Sequence[dict[str, Any]], img_ids: Sequence[int] | None = None
    ) -> None:
        from faster_coco_eval import COCO, COCOeval_faster

        results = [x for prediction in predictions for x in prediction["instances"]]
        classes = getattr(self._metadata, "thing_dataset_id_to_contiguous_id", {})
        ids = {contiguous: original for original, contiguous in classes.items()}
        for result in results:
            result["category_id"] = ids.get(result["category_id"], result["category_id"])
        if self._output_dir:
            file = Path(self._output_dir, "coco_instances_results.json")
            file.write_text(json.dumps(results))
            self._logger.info(f"Saving results to {file}")
        if not self._do_evaluation:
            self._logger.info("Annotations are not available for evaluation.")
            return
        evaluation = None  # of nothing, as in the base class
        if results:
            truth = COCO(self._coco_api.dataset)
            evaluation = COCOeval_faster(truth, truth.loadRes(results), "bbox")
            evaluation.params.maxDets = self._max_dets_per_image
            evaluation.params.imgIds = img_ids or evaluation.params.imgIds
            evaluation.run()
        names = self._metadata.get("thing_classes")
        self._results["bbox"] = self._derive_coco_results(evaluation, "bbox", class_names=names)


class LVISEvaluator(Detectron2LVISEvaluator):
    """LVIS's AP, in all and of rare, common and frequent categories.

    Args:
        dataset_name, output_dir, tasks: as in `DetectionEvaluator`.
        max_dets_per_image: how many detections of an image count; by default LVIS's 300.
        options: for Detectron2's `LVISEvaluator`.

    Raises:
        ConfigError: if `tasks` or `max_dets_per_image` is something else.
        DataError: if the set cannot be read or lacks what the metric asks for; names the entry.
        ModuleNotFoundError: names the extra that brings the package `lvis`.
    """

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | None = None,
        tasks: Sequence[str] | None = None,
        max_dets_per_image: int | None = None,
        **options: Any,
    ):
        _require("lvis", "lvis")
        import lvis

        from .data.lvis import MeasuredLvis

        _check_tasks(tasks)
        if max_dets_per_image is not None and not _is_limit(max_dets_per_image):
            raise ConfigError(
                f"max_dets_per_image is {max_dets_per_image!r}, not an integer of 1 or more"
            )
        options["max_dets_per_image"] = max_dets_per_image
        reader = partial(MeasuredLvis, name=dataset_name)
        with _naming(dataset_name), patch.object(lvis, "LVIS", reader):
            super().__init__(dataset_name, TASKS, output_dir=output_dir, **options)

    def evaluate(self) -> dict[str, Any]:
        """As in Detectron2."""
        # lvis 0.5.3, the last there is, asks for a name that numpy took away in its version 1.24.
        with patch.object(np, "float", float, create=True):
            return super().evaluate() or {}


class PascalVOCDetectionEvaluator(Detectron2VOCEvaluator):
    """Pascal VOC's AP, also of folders that other tools wrote than VOC's.

    Detectron2's code, but for how it reads annotations: coordinates may be fractions, and of what
    an object has beside `name` and `bndbox` all may be missing. Classes may have any name.

    Args:
        dataset_name: name in Detectron2's catalogs.

    Raises:
        DataError: if the set cannot be read; names the file and the object.
    """

    def __init__(self, dataset_name: str):
        with _naming(dataset_name):
            super().__init__(dataset_name)
            metadata = MetadataCatalog.get(dataset_name)
            classes = metadata.thing_classes
            self._truth = voc_truth(metadata.dirname, metadata.split, classes)
        # Detectron2 names files by the classes. A slash in one would lead to another folder.
        numbers = {name: str(index) for index, name in enumerate(classes)}
        self._class_names = [str(index) for index in range(len(classes))]
        for image, targets in self._truth.items():
            self._truth[image] = _finite(targets, self._logger)
            for target in targets:
                target["name"] = numbers[target["name"]]
        self._anno_file_template = "{}"  # so that what is asked for is an image

    def evaluate(self) -> dict[str, Any]:
        """As in Detectron2."""
        # An empty line of the list of images is none.
        with patch.object(pascal_voc_evaluation, "parse_rec", lambda x: self._truth.get(x, [])):
            return super().evaluate() or {}


@contextlib.contextmanager
def _naming(dataset_name: str) -> Iterator[None]:
    """Names the data set in whatever is raised as it is read."""
    try:
        yield
    except UNREADABLE as error:
        raise DataError(f"data set '{dataset_name}' cannot be evaluated: {error}") from error


def _finite(entries: list[dict[str, Any]], logger: logging.Logger) -> list[dict[str, Any]]:
    """COCO's and VOC's code would let a box with NaN be found or not, by where the NaN stands."""
    finite = [x for x in entries if all(map(is_finite, x["bbox"]))]
    if len(finite) < len(entries):
        logger.warning(
            f"{len(entries) - len(finite)} of {len(entries)} boxes are with NaN or infinity, and "
            "are left out of the evaluation"
        )
    return finite


def _check_tasks(tasks: Any) -> None:
    if tasks is not None and (not isinstance(tasks, Sequence) or list(tasks) != TASKS):
        raise ConfigError(f"tasks is {tasks!r}, not {TASKS}: only boxes are detected")


def _limits(value: Any) -> list[int]:
    """COCO's three limits of detections per image; its code sorts them and takes the last."""
    if value is None:
        return [1, 10, 100]
    if _is_limit(value):
        return [1, min(10, value), value]
    limits = list(value) if isinstance(value, Iterable) else []
    if len(limits) == 3 and all(map(_is_limit, limits)):
        return sorted(limits)
    raise ConfigError(f"max_dets_per_image is {value!r}, not an integer of 1 or more, or three")


def _is_limit(value: Any) -> bool:
    return is_integer(value) and value > 0


def _require(package: str, extra: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise ModuleNotFoundError(f"this evaluator needs {package}{EXTRA.format(extra)}")
