"""Where a command writes, looked at before its work begins."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from .inputs import InputError


def make_writable(folder: Path) -> None:
    """Make a folder if it is not there, and try to write into it.

    Raises:
        InputError: if that fails.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"cannot write to folder {folder}: {error.strerror}") from error


def check_files(paths: Sequence[Path]) -> None:
    """Find what is in the way of files that are to be written; makes their folders.

    Raises:
        InputError: if there cannot be such a file.
    """
    for path in paths:
        if path.is_dir():
            raise InputError(f"{path} is a folder, and a file of that name is to be written")
    for folder in {path.parent for path in paths}:
        make_writable(folder)
