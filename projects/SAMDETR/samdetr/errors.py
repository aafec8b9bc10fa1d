"""Errors that whoever runs a command can put right, and how a command ends with one of them.

Anything else is a fault of the code and keeps its traceback.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

EXIT_CODE = 2  # argparse's, for what it refuses itself


class SamdetrError(ValueError):
    """Input that cannot be used; the message names it, its value and what would be right."""


class ConfigError(SamdetrError):
    """A config file or an override that cannot work."""


class InputError(SamdetrError):
    """An input or output path that cannot be used."""


class ExportError(SamdetrError):
    """A model or an output that cannot be exported."""


class DisagreementError(ExportError):
    """An exported file whose detections differ from the model's."""


class DataError(SamdetrError):
    """A data set that is missing, cannot be read or does not fit the model."""


class ImageError(OSError, SamdetrError):
    """An image that is missing, damaged or of a kind that cannot be converted to RGB."""


# What is missing is a file or an extra of this package.
FAULTS = (SamdetrError, OSError, ModuleNotFoundError)


@contextmanager
def refusing(program: str) -> Iterator[None]:
    """End the process with one sentence and `EXIT_CODE` if one of `FAULTS` is raised inside.

    Args:
        program: name of the command, which the sentence begins with.
    """
    try:
        yield
    except FAULTS as error:
        print(f"{program}: {sentence(error)}", file=sys.stderr)
        sys.exit(EXIT_CODE)


def sentence(error: Exception) -> str:
    """What an error says, in one line; a name from a file cannot steer the terminal in it."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return printable(f"{error.filename}: {error.strerror}")
    lines = [line.strip() for line in str(error).splitlines()]
    if lines and lines[0].startswith("Caught "):  # by a worker of a loader, with its traceback
        lines = [line for line in lines if line][-1:]
    return printable(" ".join(lines))


def printable(text: str) -> str:
    """The text with control characters, and those that turn the writing direction, as escapes."""
    return "".join(x if x.isprintable() else x.encode("unicode_escape").decode() for x in text)


def check_writable(path: Path) -> None:
    """Raise OSError unless a file can be written to `path`; creates its folder.

    For outputs that are written at the end of minutes of work.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") if path.exists() else tempfile.TemporaryFile(dir=path.parent):
        pass
