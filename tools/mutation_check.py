#!/usr/bin/env python
"""Mutation test: change one operator of the package at a time and check that its tests fail.

A mutant that survives all of its tests is a line without a test; the exit code is then 1. The
package is changed in a copy. All mutants take some minutes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from samdetr.errors import refusing

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "projects/SAMDETR/samdetr"
COPIED = ("configs", "projects", "tests", "tools", "demo.py", "train_net.py", "setup.cfg", "docs")
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.egg-info")


class Mutant(NamedTuple):
    """A change of one line.

    Fields:
        old: text that occurs once in the package.
        new: its replacement.
        tests: names of test files, of which one has to fail.
    """

    old: str
    new: str
    tests: str

    def __str__(self) -> str:
        return f"{self.old!r} -> {self.new!r}"


MUTANTS = (
    Mutant("area(b) - intersection", "area(b) + intersection", "test_boxes"),
    Mutant(") - (hull", ") + (hull", "test_boxes"),
    Mutant("cost -= self.giou", "cost += self.giou", "test_matcher"),
    Mutant("positive - negative", "positive + negative", "test_matcher"),
    Mutant("predicted - truth", "predicted + truth", "test_criterion"),
    Mutant("known >= 0", "known > 0", "test_criterion test_denoising"),
    Mutant("2:] * keyp", "2:] / keyp", "test_aligner"),
    Mutant("features * self.co", "features + self.co", "test_aligner"),
    Mutant("(bins == left + 1).to", "(bins == left - 1).to", "test_regions"),
    Mutant("/ -self.bandwidth", "/ self.bandwidth", "test_smca"),
    Mutant("peak.sub_(highest)", "peak.add_(highest)", "test_kernels"),
    Mutant("offset = -(", "offset = +(", "test_kernels"),
    Mutant("boxes) - 1) *", "boxes) + 1) *", "test_denoising"),
    Mutant("None] != group", "None] == group", "test_denoising"),
    Mutant("REFERENCE) + offset", "REFERENCE) - offset", "test_decoder"),
    Mutant("reference + offset", "reference - offset", "test_decoder"),
    Mutant("index - self.offset", "index + self.offset", "test_position"),
    Mutant("position + embedding", "position - embedding", "test_neck"),
    Mutant("grid / ratio", "grid * ratio", "test_deformable"),
    Mutant("offsets / cells", "offsets * cells", "test_deformable"),
    Mutant("True) - self.pixel_mean) / self", "True) - self.pixel_mean) * self", "test_meta_arch"),
    Mutant("* (256 / white)", "* (128 / white)", "test_image_kinds"),
    Mutant("processes + comm", "processes - comm", "test_data_loading"),
    Mutant("x < last", "x > last", "test_saving"),
)


@refusing("mutation_check.py")
def main(arguments: Sequence[str] | None = None) -> int:
    """Test the mutants; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--list", action="store_true", help="print the mutants without testing")
    parser.add_argument(
        "numbers", nargs="*", type=int, metavar="N", help="numbers in --list (default: all)"
    )
    options = parser.parse_args(arguments)
    wrong = [n for n in options.numbers if n not in range(len(MUTANTS))]
    if wrong:
        parser.error(f"there is no mutant {wrong[0]}: they are 0 to {len(MUTANTS) - 1}")
    if options.list:
        for number, mutant in enumerate(MUTANTS):
            print(f"{number:2} {mutant}")
        return 0
    return try_all([MUTANTS[n] for n in options.numbers or range(len(MUTANTS))])


def try_all(mutants: Iterable[Mutant], root: Path = ROOT) -> int:
    """Test mutants of the checkout at `root`; returns the exit code."""
    mutants = list(mutants)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in COPIED:
            if (root / name).is_dir():
                shutil.copytree(root / name, copy / name, ignore=LEFT_OUT)
            elif (root / name).is_file():
                shutil.copy(root / name, copy / name)
        tests = sorted({test for mutant in mutants for test in mutant.tests.split()})
        if not passes(copy, tests):
            print("the tests fail without a change: fix them first", file=sys.stderr)
            return 2
        alive = [mutant for mutant in mutants if survives(copy, mutant)]
    print(f"{len(mutants) - len(alive)} of {len(mutants)} mutants were found")
    return 1 if alive else 0


def survives(copy: Path, mutant: Mutant) -> bool:
    """Return True if the tests of a mutant pass; the copy is restored."""
    file = find(copy, mutant)
    source = file.read_text()
    file.write_text(source.replace(mutant.old, mutant.new))
    try:
        alive = passes(copy, mutant.tests.split())
    finally:
        file.write_text(source)
    print("ALIVE" if alive else "found", f"{file.name}: {mutant}", flush=True)
    return alive


def find(root: Path, mutant: Mutant) -> Path:
    """Return the file of the package with the text that a mutant replaces.

    Raises:
        ValueError: if the text does not occur exactly once.
    """
    counts = {x: x.read_text().count(mutant.old) for x in (root / PACKAGE).rglob("*.py")}
    found = [file for file, count in counts.items() if count]
    if sum(counts.values()) != 1:
        places = ", ".join(file.name for file in found) or "no file"
        raise ValueError(f"{mutant}: the text to replace must occur once, but is in {places}")
    return found[0]


def passes(copy: Path, tests: Sequence[str]) -> bool:
    """Return True if tests pass in a copy of the checkout."""
    process = subprocess.run(
        [sys.executable, "-m", "pytest", "-qx", "-p", "no:cacheprovider"]
        + [str(next((copy / "tests").rglob(f"{name}.py"))) for name in tests],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy / "projects/SAMDETR"), "PYTHONOPTIMIZE": ""},
        capture_output=True,
        text=True,
    )
    if process.returncode not in (0, 1):  # neither passed nor failed: no test ran
        raise RuntimeError(f"pytest ended with code {process.returncode}: {process.stdout}")
    return process.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
