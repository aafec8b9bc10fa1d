"""Evaluators: COCO's AP on any registered set, a quicker way to the same figures, and LVIS's AP.

All are Detectron2's. They write their detections into `output_dir`, which is `inference/` in a
run's folder: `coco_instances_results.json` or `lvis_instances_results.json`, in COCO's format of
results, and `instances_predictions.pth`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from detectron2.evaluation import COCOEvaluator, coco_evaluation
from detectron2.evaluation import LVISEvaluator as Detectron2LVISEvaluator

from .data.coco import CheckedCoco
from .data.datasets import EXTRA, UNREADABLE
from .data.errors import DataError
from .data.fields import is_finite


class DetectionEvaluator(COCOEvaluator):
    """COCO's AP, in all and per category, of any registered set.

    A set that is not in COCO's format is converted into `output_dir`. Ground truth may lack `area`,
    for which the box's is taken, and `iscrowd`, which then is 0: COCO's code needs both, and
    people's files often have neither.

    Args:
        dataset_name: name in Detectron2's catalogs.
        output_dir: folder that detections are written into; None for nowhere.
        options: for Detectron2's `COCOEvaluator`.

    Raises:
        DataError: if the set cannot be read, or if it is not in COCO's format and there is no
            `output_dir`.
    """

    def __init__(self, dataset_name: str, output_dir: str | None = None, **options: Any):
        try:
            with patch.object(coco_evaluation, "COCO", CheckedCoco):
                # A converted set may be others' images by now: it is not taken from before.
                super().__init__(
                    dataset_name, output_dir=output_dir, allow_cached_coco=False, **options
                )
        except UNREADABLE as error:
            raise DataError(f"data set '{dataset_name}' cannot be evaluated: {error}") from error
        self._leave_out_infinite()
        for annotation in self._coco_api.dataset.get("annotations", []):
            _, _, width, height = annotation["bbox"]
            annotation.setdefault("area", max(width, 0) * max(height, 0))
            annotation.setdefault("iscrowd", 0)

    def _leave_out_infinite(self) -> None:
        """COCO's code would let a box with NaN be found or missed, by where the NaN stands."""
        annotations = self._coco_api.dataset.get("annotations", [])
        finite = [x for x in annotations if all(map(is_finite, x["bbox"]))]
        if len(finite) < len(annotations):
            self._coco_api.dataset["annotations"] = finite
            with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
                self._coco_api.createIndex()
            self._logger.warning(
                f"{len(annotations) - len(finite)} of {len(annotations)} boxes are with NaN or "
                "infinity, and are left out of the evaluation"
            )


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

    Args: those of Detectron2's `LVISEvaluator`.

    Raises:
        ModuleNotFoundError: names the extra that brings the package `lvis`.
    """

    def __init__(self, dataset_name: str, output_dir: str | None = None, **options: Any):
        _require("lvis", "lvis")
        super().__init__(dataset_name, output_dir=output_dir, **options)

    def evaluate(self) -> dict[str, Any]:
        """As in Detectron2."""
        # lvis 0.5.3, the last there is, asks for a name that numpy took away in its version 1.24.
        with patch.object(np, "float", float, create=True):
            return super().evaluate() or {}


def _require(package: str, extra: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise ModuleNotFoundError(f"this evaluator needs {package}{EXTRA.format(extra)}")
