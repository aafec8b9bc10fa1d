"""What to look at: files, folders and patterns, images and videos."""

from __future__ import annotations

import glob
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TypeAlias

from .errors import SamdetrError

PathLike: TypeAlias = str | os.PathLike[str]

# Of what is taken from a folder; a file that is named may have any other.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")


class InputError(SamdetrError):
    """What to look at, or where to write, cannot be."""


def image_files(inputs: Sequence[PathLike]) -> list[Path]:
    """The images among files, folders and patterns such as "photos/*.jpg".

    Returns:
        As they are named; those of a folder or pattern in the order of their names. What is there
        and cannot be read, such as a link to nothing, is among them: its reader says so.

    Raises:
        InputError: if an input is not there, or has no image in it.
    """
    return find_files(inputs, IMAGE_SUFFIXES)


def find_files(inputs: Sequence[PathLike], suffixes: Collection[str]) -> list[Path]:
    """As `image_files`, of a folder those with the given suffixes, each file once."""
    found = [file for text in inputs for file in _files(os.fspath(text), suffixes)]
    return list(dict.fromkeys(found))


def is_video(file: Path) -> bool:
    return file.suffix.lower() in VIDEO_SUFFIXES


def _files(text: str, suffixes: Collection[str]) -> list[Path]:
    path = Path(text)
    if path.is_dir():
        shown = [x for x in sorted(path.iterdir()) if not x.name.startswith(".")]
        found = [x for x in shown if x.suffix.lower() in suffixes and not x.is_dir()]
        if not found:
            raise InputError(f"no file in folder {text} ends with {', '.join(suffixes)}")
        return found
    if path.exists():
        return [path]
    found = sorted(x for x in map(Path, glob.glob(text, recursive=True)) if not x.is_dir())
    if not found:
        kind = "no file matches" if glob.has_magic(text) else "there is no file or folder"
        raise InputError(f"{kind} {text}")
    return found
