"""Files of weights: torch's .pth, Detectron2's .pkl and .safetensors, read and written.

A file may come from anybody. Weights are read without running what a file holds: .safetensors has
nothing but tensors, torch's format is read by its `weights_only`, and a .pkl, which is a program,
is read just where the caller trusts it, and even then it may build arrays and nothing else. (The
same reading is enough for `samdetr.checkpoint`, whose default backbone is such a file. Here a file
of unknown origin becomes one of ours, so that whoever converts it is asked first.)
"""

from __future__ import annotations

import argparse
import os
import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..tensors import entries, matched_by_heuristics, plain_weights
from ..unpickling import load_arrays
from .rules import ConversionError, StateDict

AUTHOR = "samdetr"
HEURISTICS = "matching_heuristics"


class Checkpoint(NamedTuple):
    """What a file holds.

    Fields:
        weights: names and tensors.
        matching_heuristics: if Detectron2 has to match the names by their endings.
        arguments: the command line of the training, which DETR and its kin store; {} without.
    """

    weights: StateDict
    matching_heuristics: bool = False
    arguments: dict[str, Any] = {}  # noqa: RUF012 - never changed


def read_checkpoint(path: str | Path, trusted: bool = False) -> Checkpoint:
    """Read weights without running anything that the file holds.

    Args:
        path: a `.safetensors` or `.pkl` file, or one of torch.save under any other name: the state
            dict itself, or a dict that has it under "model" beside optimiser and command line.
        trusted: if a `.pkl` may be read.

    Raises:
        FileNotFoundError: if there is no such file.
        ImportError: if it is a .safetensors file and that package is missing.
        ConversionError: if it cannot be read, or holds no weights.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No such file: {path}")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix != ".pkl":
        return _checkpoint(_loaded(_load_torch, path), path)
    if not trusted:
        raise ConversionError(
            f"{path} is a pickle, a format that can run code when it is read; if you trust whoever "
            "made it say so (--trusted)"
        )
    return _checkpoint(_loaded(load_arrays, path), path)


def read_state_dict(path: str | Path) -> StateDict:
    """The weights alone; a `.pkl` is refused. Args and raises: as `read_checkpoint`."""
    return read_checkpoint(path).weights


def save_model(
    weights: Mapping[str, Tensor],
    path: str | Path,
    *,
    file_format: str = "",
    author: str = AUTHOR,
    matching_heuristics: bool = False,
    description: str = "",
) -> None:
    """Write weights, whole or not at all.

    Args:
        weights: names and tensors.
        path: the file; in `.pth` and `.pkl` Detectron2's `DetectionCheckpointer` reads it, in the
            latter without torch's pickles, as in its model zoo.
        file_format: one of `FORMATS`; "" goes by the suffix of `path`.
        author: `__author__` of the file.
        matching_heuristics: if Detectron2 shall match the names by their endings, which a backbone
            without the prefix `backbone.` needs.
        description: what the model is, for the metadata of `.safetensors`.

    Raises:
        ConversionError: if the file cannot be written; one that was there is as it was.
        ImportError: if the package safetensors is needed and missing.
    """
    path = Path(path)
    file_format = check_output(path, file_format)
    entries: dict[str, Any] = {"__author__": author}
    if matching_heuristics:
        entries[HEURISTICS] = True
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        FORMATS[file_format](dict(weights), temporary, entries, description)
        temporary.replace(path)
    except (OSError, RuntimeError) as error:  # the latter is torch's, for a full disk
        raise ConversionError(f"{path} cannot be written: {_reason(error)}") from error
    finally:
        temporary.unlink(missing_ok=True)


def half_precision(weights: Mapping[str, Tensor]) -> StateDict:
    """The same weights in half the bytes; a model that loads them stays in float32."""
    return {k: v.half() if v.is_floating_point() else v for k, v in weights.items()}


def check_output(path: Path, file_format: str = "") -> str:
    """Find what is wrong with a path before there is anything to write.

    Returns:
        The format.

    Raises:
        ConversionError: if the path has no format, or if there can be no such file.
    """
    file_format = file_format or path.suffix.removeprefix(".")
    if file_format not in FORMATS:
        raise ConversionError(
            f"{path} must end in {', '.join('.' + x for x in FORMATS)}, or its format be given"
        )
    if not path.parent.is_dir():
        raise ConversionError(f"{path} cannot be written: {path.parent} is not a folder")
    if path.is_dir():
        raise ConversionError(f"{path} cannot be written: it is a folder")
    if not os.access(path.parent, os.W_OK):
        raise ConversionError(f"{path} cannot be written: no permission in {path.parent}")
    return file_format


def _loaded(load: Callable[[Path], Any], path: Path) -> Any:
    try:
        return load(path)
    except Exception as error:  # a damaged pickle fails in any way
        raise ConversionError(f"{path} cannot be read: {_reason(error)}") from error


def _load_torch(path: Path) -> Any:
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(path, map_location="cpu", weights_only=True)


def _read_safetensors(path: Path) -> Checkpoint:
    safe_open = _safetensors(path).safe_open

    def load(path: Path) -> Checkpoint:
        with safe_open(path, framework="pt") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            heuristics = (file.metadata() or {}).get(HEURISTICS) == str(True)
            return Checkpoint(plain_weights(weights), heuristics)

    return _loaded(load, path)


def _checkpoint(content: Any, path: Path) -> Checkpoint:
    try:
        whole = entries(content)
        weights = plain_weights(whole.get("model", whole))
        heuristics = matched_by_heuristics(whole)
    except ValueError as error:
        raise ConversionError(
            f"{path} holds no state dict, neither as a whole nor under 'model': {error}"
        ) from error
    arguments = whole.get("args")
    return Checkpoint(
        weights, heuristics, vars(arguments) if isinstance(arguments, argparse.Namespace) else {}
    )


def _reason(error: Exception) -> str:
    """Why a file was not read or written, in part of a sentence; torch takes a page for it."""
    refused = re.search(r"GLOBAL ([\w.]+)", str(error))
    if refused:
        return f"it holds {refused[1]}, which is not a tensor and could run code"
    sentence = re.split(r"\.\s|\n", str(error))[0]
    return "the format is not known" if sentence in ("", "Weights only load failed") else sentence


def _safetensors(path: Path) -> Any:
    try:
        import safetensors.torch
    except ModuleNotFoundError as error:
        raise ImportError(f"{path} needs safetensors: pip install samdetr[convert]") from error
    return safetensors


def _write_torch(weights: StateDict, path: Path, entries: dict, description: str) -> None:
    torch.save({"model": weights, **entries}, path)


def _write_pickle(weights: StateDict, path: Path, entries: dict, description: str) -> None:
    # numpy has no bfloat16; float32 holds all of its numbers.
    exact = {k: v.float() if v.dtype is torch.bfloat16 else v for k, v in weights.items()}
    with path.open("wb") as file:
        pickle.dump({"model": {k: v.numpy() for k, v in exact.items()}, **entries}, file)


def _write_safetensors(weights: StateDict, path: Path, entries: dict, description: str) -> None:
    save = _safetensors(path).torch.save
    # One tensor under two names, or a part of another one, is not in this format.
    own = {
        name: tensor.clone(memory_format=torch.contiguous_format)
        for name, tensor in weights.items()
    }
    texts = {"format": "pt", "description": description, **{k: str(v) for k, v in entries.items()}}
    path.write_bytes(save(own, {k: v for k, v in texts.items() if v}))


FORMATS: dict[str, Callable[[StateDict, Path, dict, str], None]] = {
    "pth": _write_torch,
    "pkl": _write_pickle,
    "safetensors": _write_safetensors,
}
