"""Results file of the study: every figure with its config, seed, commit and machine.

JSON, one training per line:

    {"protocol": ["train.max_iter=1600", ...],
     "runs": [{"name": "sam_detr", "seed": 0, "commit": ..., "iterations": [200, ...],
               "AP": [...], "AP50": [...], "AP75": [...], ...}]}
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from iopath.common.file_io import file_lock

from samdetr.errors import SamdetrError

from .curves import Curve, evaluations

METRICS = ("AP", "AP50", "AP75")


class StudyError(SamdetrError):
    """Unreadable or inconsistent results, or a failed training."""


class Run(NamedTuple):
    """A finished training.

    Fields:
        name: of the config under `configs/mini`.
        seed: `train.seed`.
        commit: of the project at the start; with "-dirty" if the checkout had changes.
        machine: processor and torch version.
        step_seconds: mean time of a training step, without evaluations.
        iterations: steps of the evaluations; the last is the end of training.
        AP, AP50, AP75: on `mini_val` at each evaluation, percent.
    """

    name: str
    seed: int
    commit: str
    machine: str
    step_seconds: float
    iterations: list[int]
    AP: list[float]
    AP50: list[float]
    AP75: list[float]

    def curve(self, label: str) -> Curve:
        """AP over iterations."""
        return Curve(label, [float(x) for x in self.iterations], self.AP)


class Results(NamedTuple):
    """All finished trainings under one protocol."""

    protocol: tuple[str, ...]
    runs: tuple[Run, ...]

    def of(self, name: str) -> list[Run]:
        """Return the trainings of a config, sorted by seed."""
        return sorted((run for run in self.runs if run.name == name), key=lambda run: run.seed)

    def has(self, name: str, seed: int) -> bool:
        """True if this training is finished."""
        return any((run.name, run.seed) == (name, seed) for run in self.runs)


def load_results(path: Path, protocol: Sequence[str] | None = None) -> Results:
    """Read a results file; a missing file has no trainings.

    Args:
        path: the file.
        protocol: required protocol; None accepts the file's own.

    Raises:
        StudyError: if the file is not a results file or has another protocol.
    """
    if not path.is_file():
        if protocol is None:
            raise StudyError(f"{path} does not exist: no results yet")
        return Results(tuple(protocol), ())
    try:
        contents = json.loads(path.read_text())
        results = Results(
            tuple(contents["protocol"]), tuple(Run(**run) for run in contents["runs"])
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StudyError(f"{path} is not a results file of the study: {error!r}") from error
    if protocol is not None and results.protocol != tuple(protocol):
        raise StudyError(
            f"{path} has results of {' '.join(results.protocol)}; those of "
            f"{' '.join(protocol)} need another file"
        )
    return results


def add_run(path: Path, protocol: Sequence[str], run: Run) -> None:
    """Add a training to a results file, under a lock.

    Raises:
        StudyError: see `load_results`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(str(path)):
        results = load_results(path, protocol)
        others = [x for x in results.runs if (x.name, x.seed) != (run.name, run.seed)]
        _save(path, results._replace(runs=(*others, run)))


def _save(path: Path, results: Results) -> None:
    runs = sorted(results.runs, key=lambda run: (run.name, run.seed))
    lines = ",\n".join(json.dumps(run._asdict()) for run in runs)
    protocol = json.dumps(results.protocol)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(f'{{"protocol": {protocol},\n"runs": [\n{lines}\n]}}\n')
    os.replace(partial, path)


def run_from_metrics(rows: Sequence[dict[str, Any]], **fields: Any) -> Run:
    """Build the record of a finished training from its `metrics.json`.

    Args:
        rows: lines of the file.
        fields: name, seed, commit and machine of the run.
    """
    evaluated = dict(evaluations(rows))
    times = [row["time"] for row in rows if "time" in row]
    iterations = sorted(evaluated)
    measured: dict[str, Any] = {
        x: [round(evaluated[i][f"bbox/{x}"], 3) for i in iterations] for x in METRICS
    }
    return Run(
        step_seconds=round(mean(times), 4) if times else 0.0,
        iterations=iterations,
        **measured,
        **fields,
    )


class Summary(NamedTuple):
    """Statistics of a config over its seeds.

    Fields:
        ap, ap50, ap75: final values, mean over seeds.
        spread: standard deviation of the final AP; None for one seed.
        seeds: number of seeds.
        curve: mean AP over iterations.
    """

    ap: float
    ap50: float
    ap75: float
    spread: float | None
    seeds: int
    curve: Curve


def summarize(runs: Sequence[Run], label: str) -> Summary:
    """Summarise the trainings of one config.

    Raises:
        StudyError: if they were evaluated after different iterations.
    """
    iterations = runs[0].iterations
    if any(run.iterations != iterations for run in runs):
        raise StudyError(f"{runs[0].name}: the seeds were evaluated after different iterations")
    final = [run.AP[-1] for run in runs]
    return Summary(
        mean(final),
        mean(run.AP50[-1] for run in runs),
        mean(run.AP75[-1] for run in runs),
        stdev(final) if len(final) > 1 else None,
        len(runs),
        Curve(label, [float(x) for x in iterations], [mean(x) for x in zip(*(r.AP for r in runs))]),
    )
