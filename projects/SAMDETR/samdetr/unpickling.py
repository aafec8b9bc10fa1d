"""Pickles of weights, read without running what they say.

A pickle is a program. Those of Detectron2's model zoo make arrays and nothing else, and an
unpickler that knows nothing else can read them from anybody.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch

NUMPY = ("numpy.core", "numpy._core")  # before version 2 and from there on
ARRAY_PARTS = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),  # bytes, in older protocols
    ("collections", "OrderedDict"),
    *((f"{core}.multiarray", name) for core in NUMPY for name in ("_reconstruct", "scalar")),
    *((f"{core}.numeric", "_frombuffer") for core in NUMPY),
}


class ArrayUnpickler(pickle.Unpickler):
    """Builds arrays and containers; anything else in a pickle could run code, and is refused."""

    def find_class(self, module: str, name: str) -> Any:
        """Called for every class and function that the pickle names."""
        if (module, name) not in ARRAY_PARTS:
            raise pickle.UnpicklingError(f"it holds {module}.{name}, which is not an array")
        return super().find_class(module, name)


def load_arrays(path: str | Path) -> Any:
    """What a pickle holds, its arrays as tensors.

    Raises:
        Exception: of many types, if it is damaged or holds more than arrays and containers.
    """
    with Path(path).open("rb") as file:
        # Files of Python 2 are in this encoding, as in Detectron2.
        return _with_tensors(ArrayUnpickler(file, encoding="latin1").load())


def _with_tensors(content: Any) -> Any:
    if isinstance(content, np.ndarray):
        return torch.from_numpy(content)
    return (
        {k: _with_tensors(v) for k, v in content.items()} if isinstance(content, dict) else content
    )
