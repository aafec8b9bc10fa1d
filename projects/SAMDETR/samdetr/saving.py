"""Checkpoints that are there whole or not at all, and can be told from damaged ones.

A checkpoint is Detectron2's `.pth`; its checksum is in a file beside it, for `sha256sum -c`.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import torch
from detectron2.checkpoint import DetectionCheckpointer

CHECKSUM = ".sha256"  # after the name of a checkpoint
PARTIAL = ".partial"  # after the name of a file that is being written
NUMBERED = re.compile(r"model_(\d{7})\.pth")


class AtomicCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer, which a crash at any moment leaves with its last checkpoint."""

    def save(self, name: str, **kwargs: Any) -> None:
        """Write model, checkpointables and `kwargs` to `name`.pth, and make that the last one.

        Raises:
            OSError: if it cannot be written; what was there before is still there.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        if "://" in self.save_dir:  # where nothing can be renamed
            super().save(name, **kwargs)
            return
        state = {key: part.state_dict() for key, part in self.checkpointables.items()}
        path = Path(self.save_dir, f"{name}.pth")
        self.logger.info("Saving checkpoint to %s", path)
        write_checkpoint(path, {"model": self.model.state_dict(), **state, **kwargs})
        self.tag_last_checkpoint(path.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Write the name of the last checkpoint to `last_checkpoint`."""
        if "://" in self.save_dir:
            super().tag_last_checkpoint(last_filename_basename)
            return
        with replacing(Path(self.save_dir, "last_checkpoint")) as file:
            file.write(last_filename_basename.encode())

    def newest(self) -> str:
        """The last checkpoint if it is whole, or else the one before it, with a warning.

        Returns:
            Its path; "" if the folder has none.

        Raises:
            OSError: if there are checkpoints and none is whole.
        """
        if not self.has_checkpoint():
            return ""
        last = self.get_checkpoint_file()
        if "://" in last:
            return last
        for path in [Path(last), *_before(Path(last))]:
            fault = fault_of(path)
            if not fault:
                return str(path)
            self.logger.warning("%s %s: the checkpoint before it is tried", path, fault)
        raise OSError(
            f"{self.save_dir} has no checkpoint that is whole: {last} {fault_of(Path(last))}, and "
            "there is none before it; without --resume training begins anew"
        )


def write_checkpoint(path: Path, data: dict[str, Any]) -> None:
    """Save `data`, and the checksum of the file, in place of what `path` has now."""
    checksum = path.with_name(path.name + CHECKSUM)
    with replacing(path) as file:
        hashing = HashingFile(file)
        torch.save(data, cast(IO[bytes], hashing))
        # A crash between the two files may leave a checkpoint without a checksum, never with
        # that of another.
        checksum.unlink(missing_ok=True)
    with replacing(checksum) as file:
        file.write(f"{hashing.hash.hexdigest()}  {path.name}\n".encode())


def delete_checkpoint(path: Path) -> None:
    """Delete a checkpoint and its checksum; neither has to be there."""
    for file in (path, path.with_name(path.name + CHECKSUM)):
        file.unlink(missing_ok=True)


def fault_of(path: Path) -> str:
    """What is wrong with a checkpoint; "" if it has its checksum, or no checksum to compare."""
    if not path.is_file():
        return "is not a file"
    checksum = path.with_name(path.name + CHECKSUM)
    if not checksum.is_file():
        return ""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            found.update(block)
    fits = checksum.read_bytes().split()[:1] == [found.hexdigest().encode()]
    return "" if fits else "is damaged (its checksum differs)"


def numbered_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """Iteration and path of the checkpoints of single iterations, in their order."""
    found = [(NUMBERED.fullmatch(path.name), path) for path in folder.glob("*.pth")]
    return sorted((int(match[1]), path) for match, path in found if match)


def _before(last: Path) -> list[Path]:
    """The checkpoints before the last, latest first."""
    match = NUMBERED.fullmatch(last.name)
    numbered = numbered_checkpoints(last.parent)
    return [path for number, path in reversed(numbered) if not match or number < int(match[1])]


class HashingFile:
    """A file that computes the SHA-256 of what is written to it, from one end to the other."""

    def __init__(self, file: IO[bytes]):
        self.file = file
        self.hash = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.hash.update(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that takes the place of `path` once it is complete and on the disk.

    Raises:
        OSError: if it cannot be written, with its path; it is then what it was.
    """
    partial = path.with_name(path.name + PARTIAL)
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        # torch.save hides in a RuntimeError what the file said, which does not know its name.
        reason = error.__context__ if isinstance(error, RuntimeError) else error
        if isinstance(reason, OSError) and reason.errno and reason.filename is None:
            raise OSError(reason.errno, reason.strerror, str(path)) from error
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the new name is on the disk too
    finally:
        os.close(folder)
