#!/usr/bin/env python
"""Change one operator of the package at a time, in a copy of it, and see that the tests fail.

A mutant that lives, one with which all of its tests pass, is a line that no test holds: the exit
code is 1 then. Run it after a change of the core or of the tests; it takes some minutes.
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

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "projects/SAMDETR/samdetr"
OPS = "modeling/ops"
COPIED = ("configs", "projects", "tests", "tools", "demo.py", "train_net.py", "setup.cfg", "docs")
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.egg-info")


class Mutant(NamedTuple):
    """A change of the package.

    Fields:
        file: in the package.
        old: text that is in it once.
        new: what takes its place.
        tests: one of them has to fail.
    """

    file: str
    old: str
    new: str
    tests: str

    def __str__(self) -> str:
        return f"{self.file}: {self.old!r} -> {self.new!r}"


MUTANTS = (
    Mutant(f"{OPS}/boxes.py", "area(b) - intersection", "area(b) + intersection", "test_boxes"),
    Mutant(f"{OPS}/boxes.py", ") - (hull", ") + (hull", "test_boxes"),
    Mutant("modeling/matcher.py", "cost -= self.giou", "cost += self.giou", "test_matcher"),
    Mutant("modeling/matcher.py", "positive - negative", "positive + negative", "test_matcher"),
    Mutant("modeling/criterion.py", "predicted - truth", "predicted + truth", "test_criterion"),
    Mutant("modeling/criterion.py", "known >= 0", "known > 0", "test_criterion test_denoising"),
    Mutant("modeling/aligner.py", "2:] * keyp", "2:] / keyp", "test_aligner"),
    Mutant("modeling/aligner.py", "features * self.co", "features + self.co", "test_aligner"),
    Mutant(f"{OPS}/roi_align_cpu.py", "bins == left + 1", "bins == left - 1", "test_regions"),
    Mutant("modeling/smca.py", "/ -self.bandwidth", "/ self.bandwidth", "test_smca"),
    Mutant(f"{OPS}/attend_tiled.py", "peak.sub_(highest)", "peak.add_(highest)", "test_kernels"),
    Mutant(f"{OPS}/attend_tiled.py", "offset = -(", "offset = +(", "test_kernels"),
    Mutant("modeling/denoising.py", "boxes) - 1) *", "boxes) + 1) *", "test_denoising"),
    Mutant("modeling/denoising.py", "None] != group", "None] == group", "test_denoising"),
    Mutant("modeling/decoder.py", "REFERENCE) + offset", "REFERENCE) - offset", "test_decoder"),
    Mutant("modeling/decoder.py", "reference + offset", "reference - offset", "test_decoder"),
    Mutant("modeling/position.py", "index - self.offset", "index + self.offset", "test_position"),
    Mutant("modeling/neck.py", "position + embedding", "position - embedding", "test_neck"),
    Mutant("modeling/encoder.py", "grid / ratio", "grid * ratio", "test_deformable"),
    Mutant("modeling/encoder.py", "offsets / cells", "offsets * cells", "test_deformable"),
    Mutant("modeling/meta_arch.py", "_mean) / self", "_mean) * self", "test_meta_arch"),
    Mutant("data/reading.py", "// 256", "% 256", "test_image_kinds"),
    Mutant("data/loader.py", "processes + comm", "processes - comm", "test_data_loading"),
    Mutant("checkpoint.py", "x < last", "x > last", "test_saving"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Try the mutants; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--list", action="store_true", help="print the mutants, try none")
    parser.add_argument(
        "numbers", nargs="*", type=int, metavar="N", help="which to try, of --list (default: all)"
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
    """Try mutants of the checkout at `root`; returns the exit code."""
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
            print("the tests fail without a change: mend them first", file=sys.stderr)
            return 2
        alive = [mutant for mutant in mutants if survives(copy, mutant)]
    print(f"{len(mutants) - len(alive)} of {len(mutants)} mutants were found")
    return 1 if alive else 0


def survives(copy: Path, mutant: Mutant) -> bool:
    """Whether the tests of a mutant pass, in a copy that is as it was afterwards."""
    file = copy / PACKAGE / mutant.file
    source = file.read_text()
    file.write_text(mutated(source, mutant))
    try:
        alive = passes(copy, mutant.tests.split())
    finally:
        file.write_text(source)
    print("ALIVE" if alive else "found", mutant, flush=True)
    return alive


def mutated(source: str, mutant: Mutant) -> str:
    """The source with the change.

    Raises:
        ValueError: if the text to change is not there exactly once.
    """
    count = source.count(mutant.old)
    if count != 1:
        raise ValueError(f"{mutant}: the old text is there {count} times, expected once")
    return source.replace(mutant.old, mutant.new)


def passes(copy: Path, tests: Sequence[str]) -> bool:
    """Whether tests pass in a copy of the checkout."""
    process = subprocess.run(
        [sys.executable, "-m", "pytest", "-qx", "-p", "no:cacheprovider"]
        + [str(next((copy / "tests").rglob(f"{name}.py"))) for name in tests],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy / "projects/SAMDETR"), "PYTHONOPTIMIZE": ""},
        capture_output=True,
        text=True,
    )
    if process.returncode not in (0, 1):  # neither passed nor failed: no test was run
        raise RuntimeError(f"pytest ended with code {process.returncode}: {process.stdout}")
    return process.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
