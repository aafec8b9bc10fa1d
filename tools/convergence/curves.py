"""Curves of AP over a training, from the logs of Detectron2, of DETR's kin, and published ones.

Units: AP is in percent; steps are iterations or epochs, whichever a log counts.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from samdetr.errors import SamdetrError

METRICS = "metrics.json"  # of Detectron2's JSONWriter
DETR_LOG = "log.txt"  # of DETR and what descends from it
DETR_METRIC = "test_coco_eval_bbox"  # the twelve numbers of COCOeval, AP first, up to 1
PUBLISHED = Path(__file__).with_name("published_curves.json")


class LogError(SamdetrError):
    """A log that is not there, or in which nothing was evaluated."""


class Curve(NamedTuple):
    """AP at each evaluation of a training.

    Fields:
        label: what was trained.
        steps: when, rising; `unit` says in what.
        ap: AP over IoU 0.5 to 0.95, percent.
        unit: "iteration" or "epoch".
    """

    label: str
    steps: list[float]
    ap: list[float]
    unit: str = "iteration"

    def per_epoch(self, iterations: int) -> Curve:
        """The same in epochs of so many iterations."""
        if self.unit == "epoch":
            return self
        return self._replace(steps=[x / iterations for x in self.steps], unit="epoch")


def steps_to_reach(curve: Curve, ap: float) -> float | None:
    """When a curve first reaches an AP, by straight lines between evaluations.

    Returns:
        Steps, or None if it never does. What the first evaluation finds is reached by then: it is
        that evaluation's step, at most.
    """
    points = [*zip(curve.steps, curve.ap)]
    for (last_step, last_ap), (step, value) in zip([points[0], *points], points):
        if value >= ap:
            share = (ap - last_ap) / (value - last_ap) if value > last_ap else 1.0
            return last_step + share * (step - last_step)
    return None


def read_curve(path: str | Path, label: str = "") -> Curve:
    """The curve of a log: Detectron2's `metrics.json` or the line-JSON of DETR-style code.

    Args:
        path: the file, or the folder of a run that has it.
        label: by default the name of the run's folder.

    Raises:
        LogError: if there is no log, if it is none of these, or if nothing was evaluated.
    """
    path = Path(path)
    file = _log_of(path) if path.is_dir() else path
    if not file.is_file():
        raise LogError(f"{file} is not there: wanted is a {METRICS} or a {DETR_LOG}")
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
    # A run that was interrupted and resumed by other code may have a step twice; the last counts.
    points = sorted(dict(evaluated).items())
    return Curve(label, [float(x) for x, _ in points], [float(y) for _, y in points], unit)


def evaluations(rows: Sequence[dict[str, Any]]) -> list[tuple[int, dict[str, Any]]]:
    """The lines of a `metrics.json` that have an AP, and after how many iterations each was.

    Detectron2 counts the evaluation at the end of a training one iteration late.
    """
    trained = [row["iteration"] + 1 for row in rows if "total_loss" in row]
    last = max(trained, default=None)
    return [
        (row["iteration"] + (row["iteration"] != last), row) for row in rows if "bbox/AP" in row
    ]


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The lines of a log of Detectron2, or of one of DETR-style code that has evaluations.

    Raises:
        LogError: if it is not there, or none of these.
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
    """A line as a dict; None if it is empty."""
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
    """Per-epoch AP on COCO val2017 that the authors' code was published with, by name of the run.

    Names are those of the log files: `r50_smca_e12` is ResNet-50 w/ SMCA for 12 epochs, `ms`
    SAM-DETR++.
    """
    runs = json.loads(PUBLISHED.read_text())["runs"]
    return {
        name: Curve(name, [x + 1.0 for x in run["epoch"]], [100 * x for x in run["AP"]], "epoch")
        for name, run in runs.items()
    }


def find_published(names: Sequence[str]) -> list[Curve]:
    """Published curves by name.

    Raises:
        LogError: if there is none of a name; lists those there are.
    """
    curves = published_curves()
    for name in names:
        if name not in curves:
            raise LogError(f"no published curve {name!r}, but {', '.join(sorted(curves))}")
    return [curves[name] for name in names]
