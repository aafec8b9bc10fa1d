#!/usr/bin/env python
"""Print lines and files of the package by folder, and lines of the tests: `make weight`."""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "projects/SAMDETR/samdetr"
TESTS = ROOT / "tests"


def count(file: Path) -> int:
    """Return the number of lines of a file, docstrings and comments included."""
    return file.read_text(encoding="utf-8").count("\n")


def weigh(folder: Path, nested: bool = True) -> tuple[int, int]:
    """Return the lines and the number of Python files of a folder, with subfolders if `nested`."""
    files = [*(folder.rglob("*.py") if nested else folder.glob("*.py"))]
    return sum(map(count, files)), len(files)


def main() -> None:
    folders = Counter(file.parent for file in PACKAGE.rglob("*.py"))
    rows = [(str(x.relative_to(PACKAGE.parent)), weigh(x, nested=False)) for x in sorted(folders)]
    rows += [("package", weigh(PACKAGE)), ("tests", weigh(TESTS))]
    for name, (lines, files) in rows:
        print(f"{name:28} {lines:6} lines {files:4} files")


if __name__ == "__main__":
    try:
        main()
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read the lines has left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
