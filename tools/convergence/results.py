"""The results file of the study: every figure with the config and the commit that made it.

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
    """Results that cannot be read or do not belong together, or a training that failed."""


class Run(NamedTuple):
    """A finished training.

    Fields:
        name: of the config under `configs/mini`.
        seed: `train.seed`.
        commit: of the project when it began; "-dirty" where files differed from it.
        machine: processor and version of torch.
        step_seconds: of a training step, without evaluations.
        iterations: steps after which AP was measured; the last is the end.
        AP, AP50, AP75: on `mini_val` after each of them, percent.
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
        """The trainings of one config, by seed."""
        return sorted((run for run in self.runs if run.name == name), key=lambda run: run.seed)

    def has(self, name: str, seed: int) -> bool:
        """Whether this training is done."""
        return any((run.name, run.seed) == (name, seed) for run in self.runs)


def load_results(path: Path, protocol: Sequence[str] | None = None) -> Results:
    """Read a results file; one that is not there yet has no trainings.

    Args:
        path: the file.
        protocol: that further trainings will have; None for whichever the file has.

    Raises:
        StudyError: if the file is no results file, or if its trainings had another protocol.
    """
    if not path.is_file():
        if protocol is None:
            raise StudyError(f"{path} is not there: no results yet")
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
    """Add a training to a results file, which other processes may be adding to as well.

    Raises:
        StudyError: as `load_results`.
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
    """A finished training from the lines of its `metrics.json`.

    Args:
        rows: the lines.
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
    """The trainings of one config together.

    Fields:
        ap, ap50, ap75: final ones, mean over the seeds.
        spread: standard deviation of the final AP; None for one seed.
        seeds: how many.
        curve: mean AP over iterations.
    """

    ap: float
    ap50: float
    ap75: float
    spread: float | None
    seeds: int
    curve: Curve


def summarize(runs: Sequence[Run], label: str) -> Summary:
    """Mean and spread over the seeds of one config, of which there is at least one.

    Raises:
        StudyError: if they were not evaluated after the same steps.
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
