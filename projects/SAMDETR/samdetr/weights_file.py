"""Files of weights of any trainer: read without running code, and searched for a model's weights.

Trainers put weights into dicts ("state_dict", "ema") and models into modules ("module."). No such
name is known here: a *place* is all that stands before the names of the model in a file, such as
"state_dict.module.", and the place before most of them is the right one.
"""

from __future__ import annotations

import argparse
import codecs
import datetime
import logging
import os
import pickle
import re
import sys
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import torch
from detectron2.utils.file_io import PathManager
from torch import Tensor

from .errors import CheckpointError, MissingCheckpointError

Tensors = list[tuple[str, str, Tensor]]  # place of the dict, place and name, tensor
HEURISTICS = "matching_heuristics"  # asks Detectron2 to match keys by their suffixes
# Packages that can run code, without those of their modules that cannot.
CODE = {*sys.stdlib_module_names, "torch"} - {"decimal", "enum", "fractions", "typing", "uuid"}
_CLASSES: list[Any] = [
    *(bool, bytes, complex, dict, float, frozenset, int, list, range, set, slice, str, tuple),
    *(datetime.date, datetime.datetime, datetime.time, datetime.timedelta, datetime.timezone),
    *(argparse.Namespace, Counter, OrderedDict, codecs.encode, np.ndarray, np.dtype),
    *{type(np.dtype(code)) for code in np.typecodes["All"]},
]
HARMLESS = {f"{x.__module__}.{x.__qualname__}": x for x in _CLASSES}
_array: Any = np.zeros(1)
REPLACED: dict[str, Callable[..., Any]] = {
    "collections.defaultdict": lambda factory=None: {},
    "collections.deque": lambda items=(), length=None: list(items),
    "numpy.core.multiarray.scalar": _array[0].__reduce__()[0],
    "numpy.core.multiarray._reconstruct": _array.__reduce__()[0],
    "numpy.core.numeric._frombuffer": _array.__reduce_ex__(5)[0],
    "pathlib.PosixPath": PurePosixPath,
    "pathlib.WindowsPath": PureWindowsPath,
    "torch.torch_version.TorchVersion": str,
}


def harmless(name: str) -> Any:
    """Return a class or function by the full name that a file has for it, or None to refuse it.

    Classes of other packages are not imported: their objects become dicts.
    """
    # NumPy 2 renamed numpy.core, and Python 3.13 the module that defines paths, pure or not.
    old = re.sub(r"^numpy\._core\.", "numpy.core.", name)
    old = re.sub(r"^pathlib(\._local)?\.(Pure)?", "pathlib.", old)
    if name in HARMLESS or old not in REPLACED and name.split(".")[0] in CODE:
        return HARMLESS.get(name)
    make = REPLACED.get(old, lambda *_: OrderedDict())  # torch fills instances of no other class
    module, _, short = name.rpartition(".")  # by which torch knows what it may call
    return type(short, (), {"__module__": module, "__new__": lambda cls, *args: make(*args)})


class ArrayUnpickler(pickle.Unpickler):
    """Unpickler for NumPy arrays in plain containers; runs no code of a file or of packages."""

    def find_class(self, module: str, name: str) -> Any:
        """Return a harmless class or function. Raises pickle.UnpicklingError for any other."""
        full = f"{module.replace('__builtin__', 'builtins')}.{name}"  # in older protocols
        if (found := harmless(full)) is None:
            raise pickle.UnpicklingError(f"it holds {full}, which is not an array")
        return found


def load_file(path: str | Path, model: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Read a checkpoint without running code from it, and find the weights in it.

    Args:
        path: file or URL: a `.pkl` of Detectron2's or Detectron's model zoo, a `.pyth` of pycls, a
            `.safetensors`, or with any other suffix a file of `torch.save`.
        model: names of the weights to find, with tensors of their shapes; the file may have those
            of a part of it, such as a backbone. Without it, the weights are in a dict "model", or
            else in the dict with most tensors.

    Returns:
        The content, with "model": the tensors by name. "matching_heuristics" is true if Detectron2
        has to match the names by their suffixes.

    Raises:
        CheckpointError: if the file is missing, unreadable or holds no state dict.
    """
    try:
        local = str(PathManager.get_local_path(str(path)))
    except Exception as error:  # handlers of URLs raise OSError, HTTPException, ValueError, ...
        raise MissingCheckpointError(f"{path} cannot be fetched ({error})") from error
    if not os.path.isfile(local):
        raise MissingCheckpointError(f"{path} is not a file")
    try:
        content = _read(local)
        by_suffix = isinstance(content, dict) and content.get(HEURISTICS)
        model = {} if by_suffix else model or {}
        weights, remarks = find_weights(content, model)
        weights = named_as_part(weights, model)
    except Exception as error:  # unpickling damaged bytes can raise anything
        raise CheckpointError(f"{path} cannot be read as a checkpoint: {reason(error)}") from error
    if not weights:
        raise CheckpointError(f"{path} holds no weights: expected tensors by name, in any dict")
    if remarks:
        logging.getLogger(__name__).info("The weights of %s are %s", path, remarks)
    others = content.items() if isinstance(content, Mapping) else ()
    return {**{k: v for k, v in others if not isinstance(v, Tensor)}, "model": weights}


def _read(path: str) -> Any:
    match Path(path).suffix:
        case ".pkl" if not zipfile.is_zipfile(path):  # else by torch.save
            return _read_pickle(path)
        case ".pyth":
            return _by_suffix(_read_torch(path)["model_state"], "pycls")
        case ".safetensors":
            return _read_safetensors(path)
    return _read_torch(path)


def _read_pickle(path: str) -> Any:
    with open(path, "rb") as file:
        content = ArrayUnpickler(file, encoding="latin1").load()  # as Detectron2 reads Python 2's
    zoo = "model" in content and "__author__" in content
    return content if zoo else _by_suffix(content.get("blobs", content), "Caffe2")


def _by_suffix(weights: Mapping[str, Any], author: str) -> Any:
    state = ("_momentum", "num_batches_tracked")  # of training
    kept = {name: value for name, value in weights.items() if not name.endswith(state)}
    return {"model": kept, "__author__": author, HEURISTICS: True}


def _read_safetensors(path: str) -> Any:
    from safetensors import safe_open  # an extra: pip install samdetr[convert]

    with safe_open(path, framework="pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return {"model": weights, HEURISTICS: (file.metadata() or {}).get(HEURISTICS) == "True"}


def _read_torch(path: str) -> Any:
    allowed = dict(HARMLESS)
    while True:
        try:
            with torch.serialization.safe_globals([*allowed.values()]):
                return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            found = re.search(r"GLOBAL (\S+)", str(error))
            if not found or found[1] in allowed or (replacement := harmless(found[1])) is None:
                raise
            allowed[found[1]] = replacement


def reason(error: Exception) -> str:
    """Return why a file cannot be read as part of a sentence; torch's own message fills a page."""
    text = re.sub(r"\x1b\[[\d;]*m", "", str(error))
    if refused := re.search(r"GLOBAL (\S+)", text):
        return f"it holds {refused[1]}, which is not a tensor and could run code"
    text = (text.partition("WeightsUnpickler error: ")[2] or text).strip()
    line = text.partition("\n")[0].partition(" In PyTorch")[0].rstrip(". ")
    unknown = not line or line.startswith("Weights only load failed")
    return f"its format is unknown ({type(error).__name__})" if unknown else line


def find_weights(content: Any, model: Mapping[str, Any]) -> tuple[dict[str, Tensor], str]:
    """Find the weights of a model, empty if nothing is known of it, in the content of a file.

    Returns:
        The tensors by the names of the model, and their place in words unless it is the usual one.
    """
    tensors = [
        (folder, f"{folder}{key}", tensor)
        for folder, items in _dicts(content)
        for key, value in items.items()
        if isinstance(key, str) and (tensor := _tensor(value)) is not None
    ]
    counts = _names_behind(tensors, model)
    if max(counts.values(), default=0) <= len(model) / 4:  # a few may fit by chance
        counts = Counter(folder for folder, _, _ in tensors)
    places = [place for place, count in counts.items() if count == max(counts.values())]
    states = {place: _state(tensors, place, model) for place in places}
    # Places before as many names of the model may differ in what is not of the model.
    places.sort(key=lambda x: (len(states[x]), "model" not in x.split("."), x.count(".")))
    place = places[0] if places else ""
    state = states.get(place, OrderedDict())
    same = [all(map(torch.equal, states[x].values(), state.values())) for x in places]
    others = [x[:-1] for x, copied in zip(places, same) if not copied]
    if place in ("", "model.") and not others:
        return state, ""
    rest = f", not those under {', '.join(others)}, which fit as well" if others else ""
    return state, f"those under '{place[:-1]}'{rest}"


def named_as_part(weights: dict[str, Tensor], model: Mapping[str, Any]) -> dict[str, Tensor]:
    """Rename the weights of a part of a model, such as a backbone, to their names in the model.

    They are returned unchanged unless most of them have their names behind the same prefix.
    """
    counts = Counter[str]()
    for name in model:
        for start in (match.end() for match in re.finditer(r"^|\.", name)):
            counts[name[:start]] += name[start:] in weights
    prefix = max(counts, key=lambda x: counts[x], default="")
    if not prefix or counts[prefix] <= len(weights) / 2:
        return weights
    return OrderedDict((f"{prefix}{name}", x) for name, x in weights.items())


def _names_behind(tensors: Tensors, model: Mapping[str, Any]) -> Counter[str]:
    """Count the names of the model behind each place, and again those with the model's shape."""
    counts = Counter[str]()
    for _, name, tensor in tensors:
        for start in (match.end() for match in re.finditer(r"^|\.", name)):
            if name[start:] in model:
                counts[name[:start]] += 1 + (model[name[start:]].shape == tensor.shape)
    return counts


def _state(tensors: Tensors, place: str, model: Mapping[str, Any]) -> OrderedDict[str, Tensor]:
    """Return what is behind a place, in those dicts that have names of the model there."""
    start, behind = len(place), [row for row in tensors if row[1].startswith(place)]
    folders = {folder for folder, name, _ in behind if name[start:] in model} or {place}
    return OrderedDict((name[start:], x) for folder, name, x in behind if folder in folders)


def _dicts(content: Any, place: str = "") -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Yield all nested dicts with their places, the outer ones first."""
    if isinstance(content, list | tuple):
        content = dict(enumerate(content))
    if isinstance(content, Mapping):
        yield place, content
        for key, value in content.items():
            yield from _dicts(value, f"{place}{key}.")


def _tensor(value: Any) -> Tensor | None:
    """Return a tensor, also for an array of numbers, or None for anything else."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        return torch.from_numpy(value.copy())
    return value if isinstance(value, Tensor) else None
