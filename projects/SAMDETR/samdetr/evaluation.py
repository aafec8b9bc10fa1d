"""Evaluators of COCO's AP on any registered data set, of LVIS's AP and of Pascal VOC's AP.

They subclass Detectron2's and write detections into `output_dir`, `inference/` of a run:
`instances_predictions.pth` and `coco_instances_results.json` or `lvis_instances_results.json`, in
COCO's format of results.
"""

# Detectron2's evaluators are made to be subclassed, but their attributes have private names. Set
# are `_metadata`, `_max_dets_per_image`, `_anno_file_template`, `_image_set_path`, `_class_names`;
# read are `_coco_api`, `_lvis_api`, `_output_dir`, `_do_evaluation`, `_results`; overridden is
# `_eval_predictions`, for other backends, which call `_derive_coco_results`. `_paramsEval` is
# COCOeval's copy of the parameters that its matches were made with.

from __future__ import annotations

import importlib.util
import json
import logging
import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.data.datasets import convert_to_coco_json
from detectron2.evaluation import COCOEvaluator
from detectron2.evaluation import LVISEvaluator as Detectron2LVISEvaluator
from detectron2.evaluation import PascalVOCDetectionEvaluator as Detectron2VOCEvaluator
from pycocotools.cocoeval import COCOeval

from .data.annotations import Record, voc_records
from .data.coco import read_coco
from .data.datasets import indexed
from .errors import ConfigError, DataError


class DetectionEvaluator(COCOEvaluator):
    """COCO's AP, overall and per category, of any registered data set.

    Args:
        dataset_name: name in Detectron2's catalogs.
        output_dir: folder for the detections; None writes nothing.
        max_dets_per_image: detections per image and category that count, those of the highest
            scores, or COCO's three such limits, of which AP uses the largest.
        options: for Detectron2's `COCOEvaluator`.

    Raises:
        ConfigError: if a limit is not positive.
        DataError: if the data set cannot be read.
    """

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | None = None,
        max_dets_per_image: int | Sequence[int] | None = None,
        **options: Any,
    ):
        limits = _limits(max_dets_per_image)
        with _cleaned(dataset_name) as name:
            super().__init__(name, ["bbox"], output_dir=output_dir, **options)
        self._metadata = MetadataCatalog.get(dataset_name)
        self._max_dets_per_image = limits


class FasterDetectionEvaluator(DetectionEvaluator):
    """The same figures by the compiled code of faster-coco-eval, which pays for large data sets.

    Args: those of `DetectionEvaluator`.

    Raises:
        DataError: as `DetectionEvaluator`, and if image ids are text.
        ModuleNotFoundError: if faster-coco-eval is not installed.
    """

    def __init__(self, dataset_name: str, output_dir: str | None = None, **options: Any):
        _require("faster_coco_eval", "eval")
        super().__init__(dataset_name, output_dir, **options)
        if any(isinstance(x, str) for x in self._coco_api.imgs):
            raise DataError(
                f"data set '{dataset_name}' has image ids that are text, and faster-coco-eval "
                "needs integers: use samdetr.evaluation.DetectionEvaluator"
            )

    def _eval_predictions(
        self, predictions: Sequence[Record], img_ids: Sequence[int] | None = None
    ) -> None:
        from faster_coco_eval import COCO, COCOeval_faster

        results = _results(self, predictions, "coco_instances_results.json")
        if not self._do_evaluation:
            return
        evaluation = None  # Detectron2's value for no detection at all
        if results:
            truth = COCO(self._coco_api.dataset)
            evaluation = COCOeval_faster(truth, truth.loadRes(results), "bbox")
            evaluation.params.maxDets = self._max_dets_per_image
            evaluation.params.imgIds = img_ids or evaluation.params.imgIds
            evaluation.run()
        names = self._metadata.get("thing_classes")
        self._results["bbox"] = self._derive_coco_results(evaluation, "bbox", class_names=names)


class LVISEvaluator(Detectron2LVISEvaluator):
    """LVIS's AP, overall and of rare, common and frequent categories.

    Args and errors: as for `DetectionEvaluator`, with one limit of detections, by default LVIS's
    300 of an image. ModuleNotFoundError if the package lvis is not installed.
    """

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | None = None,
        max_dets_per_image: int | None = None,
        **options: Any,
    ):
        _require("lvis", "lvis")
        limit = _limits(300 if max_dets_per_image is None else max_dets_per_image)[-1]
        options.update(output_dir=output_dir, max_dets_per_image=limit)
        with _cleaned(dataset_name, annotations=[]) as name:
            super().__init__(name, ["bbox"], **options)
        self._metadata = MetadataCatalog.get(dataset_name)

    def _eval_predictions(self, predictions: Sequence[Record]) -> None:
        from lvis import LVISEval, LVISResults

        results = _results(self, predictions, "lvis_instances_results.json", first=1)
        if not self._do_evaluation:
            return
        names = ["AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf"]
        self._results["bbox"] = dict.fromkeys(names, math.nan)
        if results:
            found = LVISResults(self._lvis_api, results, max_dets=self._max_dets_per_image)
            evaluation = LVISEval(self._lvis_api, found, "bbox")
            evaluation.evaluate()
            evaluation.eval = _accumulated(evaluation)
            evaluation.summarize()
            evaluation.print_results()
            self._results["bbox"] = {x: 100 * float(evaluation.results[x]) for x in names}


def _accumulated(evaluation: Any) -> dict[str, np.ndarray]:
    """Return precision and recall of an `LVISEval` after matching, -1 without ground truth.

    COCO's code does it: `LVISEval.accumulate` of lvis 0.5.3 needs `numpy.float`, which NumPy 1.24
    removed.
    """
    ours, params = COCOeval(iouType="bbox"), evaluation.params
    ours.params.catIds, ours.params.imgIds = params.cat_ids, params.img_ids
    ours.params.iouThrs, ours.params.recThrs = params.iou_thrs, params.rec_thrs
    ours.params.areaRng, ours.params.maxDets = params.area_rng, [None]  # all of them
    ours._paramsEval = ours.params
    names = {"dtScores": "dt_scores", "dtMatches": "dt_matches"}
    names |= {"dtIgnore": "dt_ignore", "gtIgnore": "gt_ignore"}
    ours.evalImgs = [x and {k: x[v] for k, v in names.items()} for x in evaluation.eval_imgs]
    ours.accumulate()
    return {name: ours.eval[name][..., 0] for name in ("precision", "recall")}


class PascalVOCDetectionEvaluator(Detectron2VOCEvaluator):
    """Pascal VOC's AP, also of folders that other tools than VOC's own have written.

    Detectron2's reader needs integer coordinates and `pose`, `truncated` and `difficult`, so it is
    given a copy of the annotations. Fractions are rounded to the pixels that VOC's metric counts.

    Raises:
        DataError: if the data set cannot be read.
    """

    def __init__(self, dataset_name: str):
        super().__init__(dataset_name)
        metadata = MetadataCatalog.get(dataset_name)
        classes = metadata.thing_classes
        found = voc_records(metadata.dirname, metadata.split)
        self._records = indexed(found, classes, metadata.dirname).records
        self._class_names = [str(index) for index in range(len(classes))]  # names of files

    def evaluate(self) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            self._anno_file_template = f"{folder}/{{}}.xml"
            self._image_set_path = f"{folder}/images.txt"
            Path(self._image_set_path).write_text(
                "\n".join(record["image_id"] for record in self._records)
            )
            for record in self._records:
                file = Path(self._anno_file_template.format(record["image_id"]))
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(_voc_annotation(_finite(record["annotations"])))
            return super().evaluate() or {}


def _voc_annotation(entries: Sequence[Record]) -> str:
    lines = []
    for entry in entries:
        left, top, right, bottom = map(round, entry["bbox"])
        sides = {"xmin": left + 1, "ymin": top + 1, "xmax": right, "ymax": bottom}
        box = "".join(f"<{side}>{value}</{side}>" for side, value in sides.items())
        lines.append(
            f"<object><name>{entry['category_id']}</name><bndbox>{box}</bndbox><pose/>"
            f"<truncated>0</truncated><difficult>{entry['difficult']}</difficult></object>"
        )
    return f"<annotation>{''.join(lines)}</annotation>"


@contextmanager
def _cleaned(name: str, **defaults: list[Record]) -> Iterator[str]:
    """Register a clean copy of a data set's annotations, and of `defaults` for lists that its file
    lacks, under a temporary name.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "annotations.json")
        path = MetadataCatalog.get(name).get("json_file")
        if not path:
            path = str(file)
            convert_to_coco_json(name, path, allow_cached=False)
        contents = {**defaults, **read_coco(path)}
        contents["categories"] += _other_categories(name, contents["categories"])
        if "annotations" in contents:
            contents["annotations"] = _finite(contents["annotations"])
        file.write_text(json.dumps(contents))
        MetadataCatalog.get(folder).json_file = str(file)
        try:
            yield folder
        finally:
            MetadataCatalog.remove(folder)


def _other_categories(name: str, present: Sequence[Record]) -> list[Record]:
    """Return the categories of a data set that its file lacks: Detectron2 needs all of them."""
    metadata, known = MetadataCatalog.get(name), {category["id"] for category in present}
    ids = metadata.get("thing_dataset_id_to_contiguous_id") or {}
    missing = {x: metadata.thing_classes[index] for x, index in ids.items() if x not in known}
    return [{**present[0], "id": x, "name": name} for x, name in missing.items()]


def _finite(entries: list[Record]) -> list[Record]:
    """Drop NaN boxes: whether the evaluation matches one depends on which coordinate is NaN."""
    finite = [entry for entry in entries if not math.isnan(entry["bbox"][2])]
    if len(finite) < len(entries):
        logging.getLogger(__name__).warning(
            f"{len(entries) - len(finite)} of {len(entries)} boxes are not four finite numbers and "
            "are left out of the evaluation"
        )
    return finite


def _results(
    evaluator: Any, predictions: Sequence[Record], file: str, first: int = 0
) -> list[Record]:
    """Return and save all detections with the category ids of the data set, or ids from `first`."""
    classes = evaluator._metadata.get("thing_dataset_id_to_contiguous_id", {})
    ids = {index: original for original, index in classes.items()}
    results = [x for prediction in predictions for x in prediction["instances"]]
    for result in results:
        index = result["category_id"]
        result["category_id"] = ids.get(index, index + first)
    if evaluator._output_dir:
        Path(evaluator._output_dir, file).write_text(json.dumps(results))
    return results


def _limits(value: int | Sequence[int] | None) -> list[int]:
    """Return COCO's three limits of detections per image in ascending order."""
    if value is None:
        return [1, 10, 100]
    limits = [1, min(10, value), value] if isinstance(value, int) else sorted(value)
    if len(limits) != 3 or min(limits) < 1:
        raise ConfigError(f"max_dets_per_image is {value!r}, expected one or three positive limits")
    return limits


def _require(package: str, extra: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise ModuleNotFoundError(f"evaluator needs {package}: pip install 'samdetr[{extra}]'")
