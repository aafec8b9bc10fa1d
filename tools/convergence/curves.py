"""AP over training, from logs of Detectron2 and of DETR-style code, and as published.

Units: AP in percent; steps are iterations or epochs, whichever the log counts.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from samdetr.errors import SamdetrError

METRICS = "metrics.json"  # written by Detectron2's JSONWriter
DETR_LOG = "log.txt"  # written by DETR and code derived from it
DETR_METRIC = "test_coco_eval_bbox"  # the twelve numbers of COCOeval as fractions, AP first
PUBLISHED = Path(__file__).with_name("published_curves.json")


class LogError(SamdetrError):
    """A log that is missing, unreadable or without evaluations."""


class Curve(NamedTuple):
    """AP at each evaluation of a training.

    Fields:
        label: name of the model or run.
        steps: training steps at the evaluations, ascending.
        ap: AP over IoU 0.5 to 0.95, percent.
        unit: of `steps`, "iteration" or "epoch".
    """

    label: str
    steps: list[float]
    ap: list[float]
    unit: str = "iteration"

    def per_epoch(self, iterations: int) -> Curve:
        """Convert steps to epochs of the given number of iterations."""
        if self.unit == "epoch":
            return self
        return self._replace(steps=[x / iterations for x in self.steps], unit="epoch")


def steps_to_reach(curve: Curve, ap: float) -> float | None:
    """Return the step at which a curve first reaches an AP, interpolated linearly.

    Returns:
        The step, or None if the curve stays below. Before the first evaluation nothing is known:
        an AP below its value counts as reached at its step.
    """
    points = [*zip(curve.steps, curve.ap)]
    for (last_step, last_ap), (step, value) in zip([points[0], *points], points):
        if value >= ap:
            share = (ap - last_ap) / (value - last_ap) if value > last_ap else 1.0
            return last_step + share * (step - last_step)
    return None


def read_curve(path: str | Path, label: str = "") -> Curve:
    """Read the curve of a log: Detectron2's `metrics.json` or the line-JSON of DETR-style code.

    Args:
        path: the file, or the folder of a run that contains it.
        label: defaults to the name of the run's folder.

    Raises:
        LogError: if the log is missing, has another format, or contains no evaluation.
    """
    path = Path(path)
    file = _log_of(path) if path.is_dir() else path
    if not file.is_file():
        raise LogError(f"{file} does not exist: expected a {METRICS} or a {DETR_LOG}")
    rows = read_rows(file)
    label = label or file.absolute().parent.name
    if any(DETR_METRIC in row for row in rows):
        evaluated = [(row["epoch"] + 1, 100 * row[DETR_METRIC][0]) for row in rows]
        unit = "epoch"
    else:
        evaluated = [(step, row["bbox/AP"]) for step, row in evaluations(rows)]
        unit = "iteration"
    if not evaluated:
        raise LogError(f"{file} has neither bbox/AP nor {DETR_METRIC}: nothing was evaluated")
    # A run resumed by other code may have a step twice; the last one counts.
    points = sorted(dict(evaluated).items())
    return Curve(label, [float(x) for x, _ in points], [float(y) for _, y in points], unit)


def evaluations(rows: Sequence[dict[str, Any]]) -> list[tuple[int, dict[str, Any]]]:
    """Return the lines of a `metrics.json` that have an AP, with their number of iterations.

    Detectron2 records the evaluation at the end of training one iteration late.
    """
    trained = [row["iteration"] + 1 for row in rows if "total_loss" in row]
    last = max(trained, default=None)
    return [
        (row["iteration"] + (row["iteration"] != last), row) for row in rows if "bbox/AP" in row
    ]


def read_rows(file: Path) -> list[dict[str, Any]]:
    """Parse the lines of a log of Detectron2 or of DETR-style code.

    Raises:
        LogError: if the file cannot be read or has another format.
    """
    return [row for number, line in enumerate(_lines(file), 1) if (row := _row(line, file, number))]


def _log_of(folder: Path) -> Path:
    return next(
        (folder / name for name in (METRICS, DETR_LOG) if (folder / name).is_file()),
        folder / METRICS,
    )


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise LogError(f"{file} cannot be read as a log: {error}") from error


def _row(line: str, file: Path, number: int) -> dict[str, Any] | None:
    """Parse a line; None if it is empty."""
    if not line.strip():
        return None
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise LogError(f"{file}, line {number}: not JSON: {error}") from error
    counted = isinstance(row, dict) and (
        "iteration" in row or DETR_METRIC in row and "epoch" in row
    )
    if not counted:
        raise LogError(f"{file}, line {number}: has neither 'iteration' nor {DETR_METRIC!r}")
    return dict(row)


def published_curves() -> dict[str, Curve]:
    """Return the AP per epoch on COCO val2017 published with the official code, by run.

    Runs are named after their log files: `r50_smca_e12` is ResNet-50 w/ SMCA for 12 epochs, `ms`
    stands for SAM-DETR++.
    """
    runs = json.loads(PUBLISHED.read_text())["runs"]
    return {
        name: Curve(name, [x + 1.0 for x in run["epoch"]], [100 * x for x in run["AP"]], "epoch")
        for name, run in runs.items()
    }


def find_published(names: Sequence[str]) -> list[Curve]:
    """Return published curves by name.

    Raises:
        LogError: for an unknown name; the message lists the known ones.
    """
    curves = published_curves()
    for name in names:
        if name not in curves:
            raise LogError(f"no published curve {name!r}, but {', '.join(sorted(curves))}")
    return [curves[name] for name in names]
