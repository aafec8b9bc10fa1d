"""Loading checkpoints: all of one, or an error that says what differs.

Detectron2's checkpointer fills what fits and warns about the rest; a detector loaded from another
variant's file then runs and finds nothing. Here a file fits, or it is an error.

A file may come from anybody: nothing in it is run, whatever its format.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from .errors import SamdetrError
from .saving import AtomicCheckpointer
from .tensors import entries, matched_by_heuristics, plain_weights
from .unpickling import load_arrays
from .urls import PathManager, UrlError

BACKBONE = ("backbone.", "roi_heads.res5.")  # Detectron2's C4 has the last stage in its heads
PYRAMID = ("backbone.fpn_", "backbone.top_block.")  # a backbone's file has no feature pyramid
# Buffers that a config gives anyway, or that frozen and running statistics do not need.
TOLERATED = ("pixel_mean", "pixel_std", "num_batches_tracked")
TRAINING_ONLY = "denoising."  # a model without denoising queries loads a file with them
# In the names of what has a row for each class: the logits, and the labels of denoising queries.
OF_CLASSES = (".classes.", "denoising.labels.")
LISTED = 8  # keys named in an error
FOREIGN = (
    " (no key fits: a backbone's own file needs ?matching_heuristics=True after its path, one of "
    "another code base a conversion by tools/convert_checkpoint.py)"
)


class CheckpointError(SamdetrError):
    """A checkpoint that is not there, cannot be read or does not fit the model."""


class MissingCheckpointError(CheckpointError):
    """A checkpoint that is not there or cannot be fetched."""


class Difference(NamedTuple):
    """How a file and a model differ.

    Fields:
        loaded: keys that were filled.
        missing: keys of the model that the file has not.
        unexpected: keys of the file that the model has not.
        shapes: key, shape in the file, shape in the model.
    """

    loaded: list[str]
    missing: list[str]
    unexpected: list[str]
    shapes: list[tuple[str, tuple[int, ...], tuple[int, ...]]]

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.shapes)

    def __str__(self) -> str:
        differing = [f"{key} {shape} instead of {wanted}" for key, shape, wanted in self.shapes]
        parts = {
            "missing": self.missing,
            "not in the model": self.unexpected,
            "of another shape": differing,
        }
        texts = [f"{len(keys)} {what}: {_listed(keys)}" for what, keys in parts.items() if keys]
        return "; ".join(texts)

    @property
    def classes(self) -> tuple[int, int] | None:
        """Classes of the file and of the model, if nothing but their number differs."""
        numbers = {
            (shape[0], wanted[0])
            if shape[1:] == wanted[1:] and any(part in key for part in OF_CLASSES)
            else None
            for key, shape, wanted in self.shapes
        }
        if self.missing or self.unexpected or len(numbers) != 1:
            return None
        return numbers.pop()

    @property
    def fills_backbone_only(self) -> bool:
        """If the backbone, or a part of it, is all that was filled."""
        return bool(self.loaded) and all(key.startswith(BACKBONE) for key in self.loaded)

    def of_backbone(self) -> Difference:
        """The part that concerns the backbone; a classifier's head in the file does not."""
        return Difference(
            self.loaded,
            [x for x in self.missing if x.startswith(BACKBONE) and not x.startswith(PYRAMID)],
            [],
            [row for row in self.shapes if row[0].startswith(BACKBONE)],
        )


class Checkpointer(AtomicCheckpointer):
    """Detectron2's checkpointer, strict: every key of the model is filled and none is left over."""

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Fill the model, and the checkpointables that the file holds.

        Args:
            path: file or URL, as in Detectron2; "" loads nothing.

        Returns:
            What else the file holds.

        Raises:
            CheckpointError: if the file is not there, cannot be read or does not fit.
        """
        _fetch(path or "")
        self._source = path
        try:
            return super().load(path, *args, **kwargs)
        except CheckpointError:
            raise
        except Exception as error:  # of a state for the trainer, of Detectron2's heuristics
            raise CheckpointError(f"{path} cannot be loaded: {_reason(error)}") from error
        finally:
            self._parsed_url_during_load = None  # what a failed load leaves behind

    def get_checkpoint_file(self) -> str:
        """The last checkpoint of the folder.

        Raises:
            CheckpointError: if `last_checkpoint` does not name a file in it.
        """
        try:
            path = super().get_checkpoint_file()
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{self.save_dir}/last_checkpoint is no text: {error}") from error
        name = path.removeprefix(self.save_dir).lstrip("/")
        if path and (name in ("", ".", "..") or os.path.basename(name) != name):
            raise CheckpointError(
                f"{self.save_dir}/last_checkpoint names {path!r}, expected a file beside it"
            )
        return path

    def _load_file(self, filename: str) -> dict[str, Any]:
        try:
            content = self._read(filename)
        except Exception as error:  # an unpickler of other bytes ends in errors of many types
            raise CheckpointError(
                f"{filename} cannot be read as a checkpoint: {_reason(error)}"
            ) from error
        try:
            content = entries(content)
            matched_by_heuristics(content)
            return {**content, "model": plain_weights(content.get("model"))}
        except ValueError as error:
            raise CheckpointError(
                f"{filename} holds no weights that can be loaded, alone or under 'model': {error}"
            ) from error

    def _read(self, filename: str) -> Any:
        """As in Detectron2, of whose formats three are pickles."""
        if filename.endswith(".pkl"):
            return _of_zoo(load_arrays(filename))
        if filename.endswith(".pyth"):
            return _of_pycls(self._torch_load(filename))
        return super()._load_file(filename)

    def _torch_load(self, f: str) -> Any:
        # Files of DETR and its kin hold their command line beside the weights.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(f, map_location="cpu", weights_only=True)

    def _load_model(self, checkpoint: dict[str, Any]) -> None:
        keys = self.model.state_dict().keys()
        found = super()._load_model(checkpoint)
        misshapen = {key for key, *_ in found.incorrect_shapes}  # these count as missing too
        missing = [key for key in found.missing_keys if key not in misshapen]
        self._judge(
            Difference(
                loaded=[key for key in keys if key not in misshapen.union(missing)],
                missing=[key for key in missing if not key.endswith(TOLERATED)],
                unexpected=[
                    key
                    for key in found.unexpected_keys
                    if not key.endswith(TOLERATED) and not key.startswith(TRAINING_ONLY)
                ],
                shapes=found.incorrect_shapes,
            )
        )
        # Returns nothing: there is no difference left for the base class to warn about.

    def _judge(self, difference: Difference) -> None:
        hint = ""
        if difference.fills_backbone_only:
            hint = " (a backbone's file, which training can start from, no more)"
        elif not difference.loaded and not difference.shapes:
            hint = FOREIGN
        self._refuse(difference, hint)

    def _refuse(self, difference: Difference, hint: str = "") -> None:
        if not difference:
            return
        reason = str(difference)
        if difference.classes:
            in_file, in_model = difference.classes
            reason = f"it has {in_file} classes and the model has model.num_classes={in_model}"
        raise CheckpointError(f"{self._source} does not fit the model: {reason}{hint}")


class InitialCheckpointer(Checkpointer):
    """What training starts from: a whole model, a model of other classes, or a backbone alone.

    What has a row for each class keeps its initial values where the file has other classes.
    """

    def _judge(self, difference: Difference) -> None:
        if difference.fills_backbone_only:
            self._refuse(difference.of_backbone())
            parts = sorted({key.split(".")[0] for key in difference.missing})
            self.logger.info(
                "%s fills the backbone; random weights remain in %s",
                self._source,
                ", ".join(parts),
            )
        elif difference.classes:
            self.logger.info(
                "%s has %d classes and the model has %d: random weights remain in %s",
                self._source,
                *difference.classes,
                _listed([key for key, *_ in difference.shapes]),
            )
        else:
            super()._judge(difference)


def _of_zoo(content: Any) -> dict[str, Any]:
    """A file of Detectron2's zoo, or of Detectron's, as Detectron2 reads them."""
    content = entries(content)
    if "model" in content and "__author__" in content:
        return content
    weights = entries(content.get("blobs", content), "'blobs'")
    weights = {key: value for key, value in weights.items() if not str(key).endswith("_momentum")}
    return {"model": weights, "__author__": "Caffe2", "matching_heuristics": True}


def _of_pycls(content: Any) -> dict[str, Any]:
    """A file of pycls, as Detectron2 reads it."""
    weights = entries(entries(content).get("model_state"), "'model_state'")
    weights = {k: v for k, v in weights.items() if not str(k).endswith("num_batches_tracked")}
    return {"model": weights, "__author__": "pycls", "matching_heuristics": True}


def _reason(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _listed(keys: Sequence[str]) -> str:
    return ", ".join(keys[:LISTED]) + (", ..." if len(keys) > LISTED else "")


def _fetch(path: str) -> None:
    """Download `path` if it is a URL, and check that it is a file."""
    file = path.partition("?")[0]
    try:
        local = PathManager.get_local_path(file) if file else ""
    except OSError as error:
        raise MissingCheckpointError(f"{file} cannot be fetched ({error})") from error
    except UrlError as error:
        raise MissingCheckpointError(str(error)) from error
    except ValueError as error:  # of iopath's other handlers
        raise MissingCheckpointError(f"{file} cannot be fetched ({error})") from error
    if file and not os.path.isfile(local):
        raise MissingCheckpointError(f"{file} is not a file")
