"""Checkpoints: written whole or not at all, loaded completely or refused, no code run.

A checkpoint is a `.pth` file of Detectron2 with its SHA-256 beside it, for `sha256sum -c`.
Detectron2's checkpointer only warns about a file of another variant, whose detector finds nothing.
"""

from __future__ import annotations

import hashlib
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import Tensor, nn

from .errors import CheckpointError, ConfigError
from .weights_file import HEURISTICS, load_file, reason

NUMBERED = re.compile(r"model_\d{7}\.pth$")  # a periodic checkpoint
BACKBONE = ("backbone.", "roi_heads.res5.")  # Detectron2's C4 models keep res5 in the head
# Parts of a backbone that its file may lack: pyramids, norms of outputs, relative positions.
NEW = re.compile(
    r"^backbone\.((net|bottom_up)\.)*(fpn_\w+|top_block|simfp_\d+|norm\d)\.|\.rel_pos_[hw]$"
)
# Buffers that the config sets anyway, or that frozen and running statistics do not need.
TOLERATED = ("pixel_mean", "pixel_std", "num_batches_tracked")
FILLED = ("running_mean", "running_var")  # by frozen norms themselves, where a file lacks them
TRAINING_ONLY = "denoising."  # a model without denoising loads the file of a model with it
# Parameters with a row per class: the classifier, and the label embedding of denoising queries.
OF_CLASSES = (".classes.", "denoising.labels.")
OF_QUERIES = ("queries.", "decoder.position.embedding.")  # those with a row per query


class Difference(NamedTuple):
    """Difference between the keys of a file and those of a model."""

    loaded: list[str]  # keys that were filled
    missing: list[str]  # keys of the model that are not in the file
    unexpected: list[str]  # keys of the file that are not in the model
    shapes: list[tuple[str, tuple[int, ...], tuple[int, ...]]]  # key, in the file, in the model

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.shapes)

    def __str__(self) -> str:
        differing = [f"{key} {shape} instead of {wanted}" for key, shape, wanted in self.shapes]
        parts = ("missing", "not in the model", "of another shape")
        lists = zip((self.missing, self.unexpected, differing), parts)
        shown = ((x, part, ", ".join(x[:8]) + ", ..." * (len(x) > 8)) for x, part in lists if x)
        return "; ".join(f"{len(keys)} {part}: {text}" for keys, part, text in shown)

    @property
    def classes(self) -> tuple[int, int] | None:
        """Number of classes of the file and of the model, if nothing else differs."""
        numbers = {(shape[0], wanted[0]) for _, shape, wanted in self.shapes}
        others = [
            row
            for row in self.shapes
            if row[1][1:] != row[2][1:] or not any(part in row[0] for part in OF_CLASSES)
        ]
        differs = others or self.missing or self.unexpected or len(numbers) != 1
        return None if differs else numbers.pop()

    @property
    def fills_backbone_only(self) -> bool:
        """True if only keys of the backbone were filled."""
        return bool(self.loaded) and all(key.startswith(BACKBONE) for key in self.loaded)

    def of_backbone(self) -> Difference:
        """Return the part about the backbone; a classifier in its file does not matter."""
        missing = [x for x in self.missing if x.startswith(BACKBONE) and not NEW.search(x)]
        shapes = [row for row in self.shapes if row[0].startswith(BACKBONE)]
        return Difference(self.loaded, missing, [], shapes)

    @classmethod
    def of(cls, model_keys: Sequence[str], found: Any) -> Difference:
        """Return the difference that Detectron2 reports, without keys that do not matter."""
        missing, unexpected, shapes = found
        misshapen = {key for key, *_ in shapes}
        empty = misshapen.union(missing)
        loaded = [x for x in model_keys if x not in empty and not x.endswith(FILLED)]
        # Detectron2 counts keys of another shape as missing, too.
        missing = [x for x in missing if x not in misshapen and not x.endswith(TOLERATED)]
        unexpected = [x for x in unexpected if not x.startswith(TRAINING_ONLY)]
        unexpected = [x for x in unexpected if not x.endswith(TOLERATED)]
        return cls(loaded, missing, unexpected, shapes)


def nearest(names: Sequence[str], others: Sequence[str], count: int = 3) -> list[list[str]]:
    """Return those names of each side that share most words with a name of the other side."""
    words = {name: set(re.findall(r"[a-z]+|\d+", name.lower())) for name in (*names, *others)}

    def likeness(pair: tuple[str, str]) -> float:
        one, other = (words[name] for name in pair)
        return len(one & other) / max(len(one | other), 1)

    pairs = sorted(product(names, others), key=likeness, reverse=True)
    return [list(dict.fromkeys(pair[side] for pair in pairs))[:count] for side in (0, 1)]


class Checkpointer(DetectionCheckpointer):
    """Detectron2's checkpointer with atomic saving and strict loading: all keys must match."""

    def save(self, name: str, **kwargs: Any) -> None:
        """Write model, checkpointables and `kwargs` to `name`.pth and tag it as the last one.

        Raises:
            OSError: if it cannot be written; a previous file of this name is then unchanged.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        state = {key: part.state_dict() for key, part in self.checkpointables.items()}
        path = Path(self.save_dir, f"{name}.pth")
        self.logger.info("Saving %s", path)
        with replacing(path) as file:
            torch.save({"model": self.model.state_dict(), **state, **kwargs}, file)
            # A crash before the next file is written leaves a checkpoint without a checksum,
            # never one with the checksum of another.
            checksum_file(path).unlink(missing_ok=True)
        with replacing(checksum_file(path)) as file:
            file.write(f"{sha256(path)}  {path.name}\n".encode())
        self.tag_last_checkpoint(path.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Write the name of the last checkpoint to `last_checkpoint`."""
        with replacing(Path(self.save_dir, "last_checkpoint")) as file:
            file.write(last_filename_basename.encode())

    def numbered(self) -> list[str]:
        """Return the paths of the periodic checkpoints, in the order of their iterations."""
        return sorted(path for path in self.get_all_checkpoint_files() if NUMBERED.search(path))

    def newest(self) -> str:
        """Return the path of the last checkpoint that is not damaged; "" if there are none at all.

        Raises:
            OSError: if there are checkpoints and all are damaged.
        """
        if not self.has_checkpoint():
            return ""
        last = self.get_checkpoint_file()
        others = [x for x in self.numbered() if x < last or not NUMBERED.search(last)]
        for path in [last, *reversed(others)]:
            if not (damage := damage_of(Path(path))):
                return path
            self.logger.warning("%s %s: trying the checkpoint before it", path, damage)
        raise OSError(
            f"{self.save_dir} has no checkpoint that is whole: {last} {damage_of(Path(last))} "
            "and none is before it; without --resume training begins anew"
        )

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Fill the model and checkpointables, and return the rest of the file's content.

        Args:
            path: file or URL, with "?matching_heuristics=True" as in Detectron2; "" loads nothing.
            checkpointables: names of those to load; all by default.

        Raises:
            CheckpointError: if the file is missing, unreadable or does not fit.
        """
        if not path:
            return {}
        self.logger.info("Loading from %s", path)
        file = path.removesuffix(f"?{HEURISTICS}=True")
        by_suffix = {HEURISTICS: True} if file != path else {}
        content = load_file(file, None if by_suffix else self.model.state_dict()) | by_suffix
        try:
            # Private, but the method that fvcore and Detectron2 share to fill a model.
            found = self._load_model(content)
            self._judge(Difference.of(list(self.model.state_dict()), found), path)
            for key in self.checkpointables if checkpointables is None else checkpointables:
                if key in content:
                    self.checkpointables[key].load_state_dict(content.pop(key))
        except CheckpointError:
            raise
        except Exception as error:  # from Detectron2's heuristics or torch's optimisers
            raise CheckpointError(f"{path} cannot be loaded: {reason(error)}") from error
        return content

    def _judge(self, difference: Difference, path: str) -> None:
        if not difference:
            return
        reason = str(difference)
        if difference.classes:
            in_file, in_model = difference.classes
            reason = f"it has {in_file} classes and the model has model.num_classes={in_model}"
        elif difference.fills_backbone_only and difference != difference.of_backbone():
            reason += " (it is a backbone's file, which training can start from)"
        elif (fitting := len(difference.loaded + difference.shapes)) < len(difference.missing):
            sides = nearest(difference.unexpected, difference.missing)
            file, model = (", ".join(x) or "none" for x in sides)
            reason = (
                f"{fitting} of its names fit; nearest are {file} in the file and {model} in the "
                f"model (a backbone's own file needs ?{HEURISTICS}=True after its path, one of "
                "another code base a conversion by tools/convert_checkpoint.py)"
            )
        raise CheckpointError(f"{path} does not fit the model: {reason}")


class InitialCheckpointer(Checkpointer):
    """Loads what training starts from: a whole model, one of other classes, or a backbone alone.

    Parameters with a row per class keep their initial values if the file has other classes, those
    with a row per query in the rows that the file lacks, and denoising if the file has none.

    Args:
        model: to fill.
        reset: prefixes of the names of parameters that keep their initial values.

    Raises:
        ConfigError: if no parameter begins with one of the prefixes.
    """

    def __init__(self, model: nn.Module, reset: Sequence[str] = ()):
        super().__init__(model)
        self.reset = tuple(reset)
        for prefix in reset:
            if not any(name.startswith(prefix) for name in model.state_dict()):
                raise ConfigError(f"train.init_reset has {prefix!r}, and no parameter begins so")

    def _load_model(self, checkpoint: Any) -> Any:
        own = self.model.state_dict()
        initial = {name: x.clone() for name, x in own.items() if name.startswith(self.reset)}
        weights, remarks = checkpoint["model"], []
        channels = len(getattr(self.model, "pixel_mean", range(3)))
        for name, x in weights.items() if channels != 3 else ():
            if x.ndim == 4 and x.shape[1] == 3:
                weights[name], how = adapted_stem(torch.as_tensor(x), channels)
                remarks.append(f"{name} is adapted from 3 to {channels} channels by {how}")
        for name in [x for x in weights if x.startswith(OF_QUERIES) and x in own]:
            given, rows = torch.as_tensor(weights[name]), own[name].clone()
            if given.shape[1:] == rows.shape[1:] and len(given) != len(rows):
                count = min(len(given), len(rows))
                rows[:count] = given[:count]
                weights[name] = rows
                remarks.append(f"{count} of {len(given)} rows of {name} are used")
        found = super()._load_model(checkpoint)
        for name, x in initial.items():  # not by load_state_dict: frozen norms fill what it lacks
            own[name].copy_(x)
        if new := [*initial, *(x for x in found.missing_keys if x.startswith(TRAINING_ONLY))]:
            names = list(dict.fromkeys(new))
            rest = f", ... ({len(names)} tensors)" * (len(names) > 8)
            remarks.append(f"initial values stay in {', '.join(names[:8])}{rest}")
        if remarks:
            self.logger.info("Of the file: %s", "; ".join(remarks))
        return found

    def _judge(self, difference: Difference, path: str) -> None:
        missing = [x for x in difference.missing if not x.startswith((*self.reset, TRAINING_ONLY))]
        unexpected = [x for x in difference.unexpected if not x.startswith(self.reset)]
        shapes = [row for row in difference.shapes if not row[0].startswith(self.reset)]
        difference = Difference(difference.loaded, missing, unexpected, shapes)
        if difference.fills_backbone_only:
            super()._judge(difference.of_backbone(), path)
            new = {x: NEW.search(x) for x in difference.missing}
            parts = {match[0].strip(".") if match else x.split(".")[0] for x, match in new.items()}
            text = "%s fills the backbone; random weights remain in %s"
            self.logger.info(text, path, ", ".join(sorted(parts)))
        elif difference.classes:
            text = "%s has %d classes and the model has %d: its classifier stays random"
            self.logger.info(text, path, *difference.classes)
        else:
            super()._judge(difference, path)


def adapted_stem(weight: Tensor, channels: int) -> tuple[Tensor, str]:
    """Adapt the (C', 3, H, W) weights of a stem to another number of channels, and say how.

    The features of an image of equal channels stay about the same.
    """
    if channels == 1:
        return weight.sum(1, keepdim=True), "their sum"
    repeated = weight.repeat(1, -(-channels // 3), 1, 1)[:, :channels]
    return repeated * (3 / channels), "repetition"


def checksum_file(path: Path) -> Path:
    """Return the path of the file with the checksum of a checkpoint."""
    return path.with_name(path.name + ".sha256")


def sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def damage_of(path: Path) -> str:
    """Return how a checkpoint is damaged; "" if it has its checksum, or none to compare with."""
    if not path.is_file():
        return "is not a file"
    checksum = checksum_file(path)
    matches = not checksum.is_file() or checksum.read_bytes()[:64] == sha256(path).encode()
    return "" if matches else "is damaged (its checksum differs)"


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that replaces `path` once it is complete and on the disk.

    Raises:
        OSError: with the path, if it cannot be written; `path` is then unchanged.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        # torch.save hides the OSError of a file, which has no name, in a RuntimeError.
        reason = error.__context__ if isinstance(error, RuntimeError) else error
        if isinstance(reason, OSError) and reason.errno and reason.filename is None:
            raise OSError(reason.errno, reason.strerror, str(path)) from error
        raise
    try:
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the new name is on the disk, too
        finally:
            os.close(folder)
    except OSError as error:  # network drives refuse it, Windows opens no folders
        warnings.warn(f"{path.parent} cannot be flushed to the disk: {error}", stacklevel=3)
