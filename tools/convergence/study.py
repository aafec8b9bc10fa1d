"""Runs the study: each training a process of its own on one core, several side by side.

A training writes into `<output>/<name>/seed<seed>`. It goes on where it was stopped, and what is
done is not done again: neither a training in the results file nor one that ended just before it
got there.
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

LINES_SHOWN = 15  # of the log of a training that failed
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class Training(NamedTuple):
    """A variant with a seed."""

    name: str
    seed: int

    def __str__(self) -> str:
        return f"{self.name} seed {self.seed}"


class Study(NamedTuple):
    """Where a study lives and how it trains.

    Fields:
        root: of the checkout, with `train_net.py` and `configs/mini`.
        output: folder of the trainings.
        results: the file of figures.
        protocol: overrides of all configs.
    """

    root: Path
    output: Path
    results: Path
    protocol: tuple[str, ...]

    def folder(self, training: Training) -> Path:
        """Of one training."""
        return self.output / training.name / f"seed{training.seed}"


def run_all(
    study: Study, trainings: Sequence[Training], jobs: int, say: Callable[[str], None]
) -> None:
    """Run the trainings that are not done, `jobs` at a time, and add them to the results file.

    Args:
        study: where.
        trainings: in this order.
        jobs: how many side by side.
        say: is told of every begin and end.

    Raises:
        StudyError: if a training failed, after all others are done; or at once if the results file
            is of another protocol.
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
    """Run one training; returns what went wrong, "" if nothing did."""
    try:
        say(f"{training}: begins")
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
        StudyError: if it fails, or if its folder is that of another protocol.
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
    """Wait until no process is at work in a folder, also none that another study left behind.

    Yields:
        The descriptor that holds the lock, until every process that has it is gone.
    """
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def _begin(study: Study, folder: Path) -> dict[str, Any]:
    """What the training began with, written down when it did."""
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
    """Whether the training ended, though the results file may not have it."""
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
        # The lock goes on to the training, which may outlive this process.
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
    """The checkout's commit, with "-dirty" if files differ from it; "unknown" without Git."""
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
