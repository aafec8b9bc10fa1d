"""Execution of the study: each training is a single-threaded process, several run in parallel.

A training writes to `<output>/<name>/seed<seed>`. Interrupted trainings resume; finished ones are
not repeated, even if the study stopped before adding them to the results file.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmark.table import cpu_name

from .curves import METRICS, read_rows
from .results import Run, StudyError, add_run, load_results, run_from_metrics

LINES_SHOWN = 15  # of a failed training's log
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class Training(NamedTuple):
    """A variant and a seed."""

    name: str
    seed: int

    def __str__(self) -> str:
        return f"{self.name} seed {self.seed}"


class Study(NamedTuple):
    """Paths and protocol of a study.

    Fields:
        root: of the checkout, with `train_net.py` and `configs/mini`.
        output: folder of the trainings.
        results: results file.
        protocol: overrides for all configs.
    """

    root: Path
    output: Path
    results: Path
    protocol: tuple[str, ...]

    def folder(self, training: Training) -> Path:
        """Return the output folder of a training."""
        return self.output / training.name / f"seed{training.seed}"


def run_all(
    study: Study, trainings: Sequence[Training], jobs: int, say: Callable[[str], None]
) -> None:
    """Run the unfinished trainings, `jobs` at a time, and add them to the results file.

    Args:
        study: paths and protocol.
        trainings: started in this order.
        jobs: number of parallel trainings.
        say: receives a message at every start and end.

    Raises:
        StudyError: after all trainings, if any failed; immediately, if the results file has
            another protocol.
    """
    results = load_results(study.results, study.protocol)
    open_ones = [x for x in trainings if not results.has(*x)]
    say(f"{len(trainings) - len(open_ones)} of {len(trainings)} trainings are done")
    with ThreadPoolExecutor(jobs) as pool:
        errors = list(pool.map(lambda training: _run(study, training, say), open_ones))
    failed = [error for error in errors if error]
    if failed:
        raise StudyError("\n".join(failed))


def _run(study: Study, training: Training, say: Callable[[str], None]) -> str:
    """Run one training; return its error message, or ""."""
    try:
        say(f"{training}: started")
        run = train(study, training)
        add_run(study.results, study.protocol, run)
        say(f"{training}: AP {run.AP[-1]:.1f}, {1000 * run.step_seconds:.0f} ms per step")
    except StudyError as error:
        say(str(error))
        return str(error)
    return ""


def train(study: Study, training: Training) -> Run:
    """Run or resume one training to its end.

    Raises:
        StudyError: if it fails, or if its folder has a training of another protocol.
    """
    folder = study.folder(training)
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder) as lock:
        begun = _begin(study, folder)
        if not _finished(folder):
            _call(study, training, lock)
        return run_from_metrics(
            read_rows(folder / METRICS),
            name=training.name,
            seed=training.seed,
            commit=begun["commit"],
            machine=begun["machine"],
        )


@contextmanager
def _alone(folder: Path) -> Iterator[int]:
    """Lock a folder, waiting for any process that still trains there.

    Yields:
        The file descriptor of the lock, which is held until every process that inherits it exits.
    """
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def _begin(study: Study, folder: Path) -> dict[str, Any]:
    """Record the protocol, commit and machine of a new training, or read an earlier record."""
    file = folder / "study.json"
    begun: dict[str, Any]
    if file.is_file():
        begun = json.loads(file.read_text())
        if begun["protocol"] != list(study.protocol):
            raise StudyError(
                f"{folder} has a training of {' '.join(begun['protocol'])}: remove it or choose "
                "another --output"
            )
        return begun
    begun = {
        "protocol": list(study.protocol),
        "commit": commit(study.root),
        "machine": f"{cpu_name()}, torch {torch.__version__}",
    }
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(begun))
    os.replace(partial, file)
    return begun


def _finished(folder: Path) -> bool:
    """True if the training ended, whether or not the results file has it."""
    return (folder / "done").is_file()


def _call(study: Study, training: Training, lock: int) -> None:
    folder = study.folder(training)
    command = [
        sys.executable,
        str(study.root / "train_net.py"),
        "--config-file",
        str(study.root / "configs" / "mini" / f"{training.name}.py"),
        "--resume",
        f"train.output_dir={folder}",
        f"train.seed={training.seed}",
        *study.protocol,
    ]
    with (folder / "console.log").open("a") as log:
        # The training inherits the lock, because it may outlive this process.
        code = subprocess.run(
            command,
            env={**os.environ, **ONE_THREAD},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=[lock],
            check=False,
        ).returncode
    if code:
        tail = (folder / "console.log").read_text().splitlines()[-LINES_SHOWN:]
        raise StudyError(
            f"{training}: failed with exit code {code}, {folder / 'console.log'} ends:\n"
            + "\n".join(f"    {line}" for line in tail)
        )
    (folder / "done").touch()


def commit(root: Path) -> str:
    """Return the checkout's commit, with "-dirty" if it has changes, or "unknown" without Git."""
    try:
        return subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
