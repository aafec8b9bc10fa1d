"""Exceptions for user errors, and how commands report them.

Any other exception is a bug and keeps its traceback.
"""

from __future__ import annotations

import errno
import io
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, TextIO, cast

EXIT_CODE = 2  # the same as argparse's


class SamdetrError(ValueError):
    """Unusable input; the message names it, its value and what would be right."""


class ConfigError(SamdetrError):
    """A config file or an override that cannot work."""


class DataError(SamdetrError):
    """A data set that is missing, unreadable or does not fit the model."""


class ImageError(OSError, SamdetrError):
    """An image that is missing, broken, too large or not convertible to RGB."""


class InputError(SamdetrError):
    """An input path or an output path of a command that cannot be used."""


class CheckpointError(SamdetrError):
    """A checkpoint that is missing, unreadable or does not fit the model."""


class MissingCheckpointError(CheckpointError):
    """A checkpoint that does not exist or cannot be downloaded."""


class ConversionError(SamdetrError):
    """Weights that cannot be read, converted or written."""


class ExportError(SamdetrError):
    """A model or a request that cannot be exported."""


class DisagreementError(ExportError):
    """An exported file whose detections differ from the model's."""


class TrainingError(RuntimeError):
    """A run that cannot continue; the message gives the cause and the checkpoint to resume from."""


REPORTED = (SamdetrError, OSError, ModuleNotFoundError)  # missing files and extras too


@contextmanager
def refusing(program: str) -> Iterator[None]:
    """Print a user error as one line and exit with `EXIT_CODE`; context manager or decorator.

    If the reader of its output exits, as in `| head`, the command continues silently.

    Args:
        program: name of the command, the prefix of the line.
    """
    out, error_out = (cast(TextIO, Screen(x)) for x in (sys.stdout, sys.stderr))
    with redirect_stdout(out), redirect_stderr(error_out):
        try:
            yield
        except REPORTED as error:
            print(f"{program}: {sentence(error)}", file=sys.stderr)
            sys.exit(EXIT_CODE)
        finally:  # at exit, Python would report a closed pipe
            out.flush()
            error_out.flush()


class Screen:
    """Text stream that discards its output once its pipe or terminal is closed."""

    def __init__(self, stream: TextIO | None):
        self._stream = stream or io.StringIO()  # None without a terminal

    def write(self, text: str) -> int:
        self._call(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        self._call(self._stream.flush)

    def _call(self, method: Callable[..., Any], *args: str) -> None:
        try:
            method(*args)
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):
                raise
            with open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def sentence(error: Exception) -> str:
    """Return the message of an error as one printable line."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return printable(f"{error.filename}: {error.strerror}")
    text = re.sub(r"\x1b\[[\d;]*m", "", str(error))  # torch prints in bold
    if text.startswith("Caught "):  # from a DataLoader worker, with its traceback
        text = re.split(r"\n(?=[\w.]+Error: )", text)[-1]
    return printable(" ".join(line.strip() for line in text.splitlines() if line.strip()))


def printable(text: str) -> str:
    """Escape control characters and bidirectional marks, e.g. those in names read from a file."""
    return "".join(x if x.isprintable() else x.encode("unicode_escape").decode() for x in text)


def check_writable(path: Path) -> None:
    """Raise OSError unless a file can be written to `path`; creates its folder.

    For outputs that are written at the end of minutes of work.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") if path.exists() else tempfile.TemporaryFile(dir=path.parent):
        pass
