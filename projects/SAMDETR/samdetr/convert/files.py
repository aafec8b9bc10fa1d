"""Writing of weights as torch's `.pth`, Detectron2's `.pkl` of NumPy arrays, or `.safetensors`.

Reading is `samdetr.checkpoint.load_file`, for the same formats.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from ..checkpoint import HEURISTICS, replacing
from .rules import ConversionError, StateDict

AUTHOR = "samdetr"


def save_model(
    weights: Mapping[str, Tensor],
    path: str | Path,
    *,
    file_format: str = "",
    author: str = AUTHOR,
    matching_heuristics: bool = False,
    description: str = "",
) -> None:
    """Write weights atomically.

    Args:
        weights: names and tensors.
        path: the file.
        file_format: a key of `FORMATS`; the suffix of `path` by default.
        author: `__author__` of the file.
        matching_heuristics: ask Detectron2 to match names by their suffixes, as a backbone without
            the prefix `backbone.` needs.
        description: description of the model.

    Raises:
        ConversionError: if there is no such format.
        OSError: if the file cannot be written; a previous one is then unchanged.
    """
    write = FORMATS[check_format(path, file_format)]
    extras = {"__author__": author, "description": description, HEURISTICS: matching_heuristics}
    with replacing(Path(path)) as file:
        write(dict(weights), file, {name: x for name, x in extras.items() if x})


def half_precision(weights: Mapping[str, Tensor]) -> StateDict:
    """Return floating-point weights as float16; a model that loads them stays in float32."""
    return {k: v.half() if v.is_floating_point() else v for k, v in weights.items()}


def check_format(path: str | Path, file_format: str = "") -> str:
    """Return the format of a file to write. Raises ConversionError without any."""
    file_format = file_format or Path(path).suffix.removeprefix(".")
    if file_format not in FORMATS:
        raise ConversionError(f"{path} must end in {', '.join('.' + x for x in FORMATS)}")
    return file_format


def _write_torch(weights: StateDict, file: IO[bytes], extras: dict) -> None:
    torch.save({"model": weights, **extras}, file)


def _write_pickle(weights: StateDict, file: IO[bytes], extras: dict) -> None:
    # NumPy has no bfloat16; float32 represents it exactly.
    exact = {k: v.float() if v.dtype is torch.bfloat16 else v for k, v in weights.items()}
    pickle.dump({"model": {k: v.numpy() for k, v in exact.items()}, **extras}, file)


def _write_safetensors(weights: StateDict, file: IO[bytes], extras: dict) -> None:
    from safetensors.torch import save  # an extra: pip install samdetr[convert]

    # The format refuses tensors that share memory.
    own = {k: v.clone(memory_format=torch.contiguous_format) for k, v in weights.items()}
    file.write(save(own, {"format": "pt", **{k: str(v) for k, v in extras.items()}}))


FORMATS: dict[str, Callable[[StateDict, IO[bytes], dict], None]] = {
    "pth": _write_torch,
    "pkl": _write_pickle,
    "safetensors": _write_safetensors,
}
