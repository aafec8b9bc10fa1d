"""Pickles of weights, read without running what they say.

A pickle is a program. Those of Detectron2's model zoo make arrays and nothing else, and an
unpickler that knows nothing else can read them from anybody.

What a pickle names is never handed to it: numpy's types trust the states that a pickle gives them,
down to the meaning of memory. It gets stand-ins, which check, and become tensors in the end.
"""

from __future__ import annotations

import io
import math
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

NUMPY = ("numpy.core", "numpy._core")  # before version 2 and from there on
NUMBERS = re.compile(r"b1|[iu][1248]|f[248]|c(8|16)")  # numpy's names of the types of numbers
DIMENSIONS = 32  # at most; numpy's own limit before version 2


class Part:
    """What a pickle may call, which it cannot change."""

    def __init__(self, call: Callable[..., Any]):
        self._call = call

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("it changes what is not its own")


class Mapping(dict):
    """An OrderedDict without its attributes."""

    def __setstate__(self, state: Any) -> None:
        """Attributes are no weights; torch's `_metadata` is one."""


class DType:
    """numpy.dtype of numbers: its name, and by its state the order of its bytes."""

    def __init__(self, name: Any, *flags: Any):
        if not isinstance(name, str) or not NUMBERS.fullmatch(name):
            raise pickle.UnpicklingError(f"it holds an array of {name!s:.20}, expected numbers")
        self.numpy = np.dtype(name)

    def __setstate__(self, state: Any) -> None:
        _require(isinstance(state, tuple) and len(state) > 1, "a type without an order of bytes")
        # A version may come before.
        order: Any = state[0] if isinstance(state[0], str) else state[1]
        _require(order in ("<", ">", "=", "|"), "a type without an order of bytes")
        self.numpy = self.numpy.newbyteorder(order)


class Array:
    """numpy.ndarray: bytes, which are a tensor once all is read."""

    __hash__ = None  # type: ignore[assignment]  # as numpy's, no key of a dict

    def __init__(self, spend: Callable[[int], None]):
        self._spend = spend
        self.values: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _require(isinstance(state, tuple) and len(state) in (4, 5), "an array of an unknown kind")
        shape, dtype, fortran, data = state[-4:]  # a version may come before
        _require(isinstance(fortran, int), "an array of unknown order")
        self.fill(data, dtype, shape, "F" if fortran else "C")

    def fill(self, data: Any, dtype: Any, shape: Any, order: Any) -> None:
        """Take over the bytes, which have to be as many as the shape says."""
        _require(isinstance(dtype, DType), "an array without a type")
        _require(order in ("C", "F"), "an array of unknown order")
        _require(
            isinstance(shape, tuple)
            and len(shape) <= DIMENSIONS
            and all(type(size) is int and size >= 0 for size in shape),
            "an array without a shape",
        )
        data = _bytes(data)
        self._spend(len(data))
        _require(
            math.prod(shape) * dtype.numpy.itemsize == len(data),
            f"{len(data)} bytes for an array of another size",
        )
        values: np.ndarray = np.ndarray(shape, dtype.numpy, data, order=order)
        self.values = values.astype(dtype.numpy.newbyteorder("="), order="K")  # a copy

    def tensor(self) -> torch.Tensor:
        """The numbers. Raises UnpicklingError if the pickle gave none."""
        if self.values is None:
            raise pickle.UnpicklingError("it holds an array without numbers")
        return torch.from_numpy(self.values)


# In Python: the one in C makes room for as many objects as a short file announces.
class ArrayUnpickler(pickle._Unpickler):
    """Builds arrays and containers; anything else in a pickle could run code, and is refused."""

    dispatch = dict(pickle._Unpickler.dispatch)

    def __init__(self, content: bytes):
        # Files of Python 2 are in this encoding, as in Detectron2.
        super().__init__(io.BytesIO(content), encoding="latin1")
        # What is made by calls is copied once or twice; more is a short file that becomes long.
        self._left = 2 * len(content)
        parts: dict[tuple[str, str], Callable[..., Any]] = {
            ("numpy", "ndarray"): self._reconstruct,
            ("numpy", "dtype"): DType,
            ("_codecs", "encode"): self._encode,  # bytes, in older protocols
            ("__builtin__", "bytes"): bytes_of_nothing,
            ("collections", "OrderedDict"): self._mapping,
        }
        for core in NUMPY:
            parts[f"{core}.multiarray", "_reconstruct"] = self._reconstruct
            parts[f"{core}.multiarray", "scalar"] = self._scalar
            parts[f"{core}.numeric", "_frombuffer"] = self._from_buffer
        self._parts = {name: Part(call) for name, call in parts.items()}

    def find_class(self, module: str, name: str) -> Any:
        """Called for every class and function that the pickle names."""
        if (module, name) not in self._parts:
            raise pickle.UnpicklingError(f"it holds {module}.{name}, which is not an array")
        return self._parts[module, name]

    def load_bytearray8(self) -> None:
        """As the base class, which makes room for as many bytes as a file announces."""
        self.load_binbytes8()  # type: ignore[attr-defined]
        self.stack[-1] = bytearray(self.stack[-1])  # type: ignore[attr-defined]

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8  # type: ignore[assignment]

    def _spend(self, size: int) -> None:
        self._left -= size
        _require(self._left >= 0, "more than its size, by naming the same bytes again")

    def _reconstruct(self, *args: Any) -> Array:
        return Array(self._spend)  # filled by its state

    def _from_buffer(
        self, data: Any, dtype: Any, shape: Any, order: Any, axes: Any = None
    ) -> Array:
        """As numpy's; `axes` are those of an array that is neither of C's order nor Fortran's."""
        array = Array(self._spend)
        array.fill(data, dtype, shape, "C" if order == "K" and axes is not None else order)
        if order == "K" and axes is not None and array.values is not None:
            array.values = array.values.transpose(axes)
        return array

    def _scalar(self, dtype: Any, data: Any) -> Any:
        array = Array(self._spend)
        array.fill(data, dtype, (), "C")
        return array.tensor().item()

    def _encode(self, text: Any, encoding: Any) -> bytes:
        _require(isinstance(text, str) and encoding == "latin1", "bytes in an unknown encoding")
        self._spend(len(text))
        encoded: bytes = text.encode("latin1")
        return encoded

    def _mapping(self, items: Any = ()) -> Mapping:
        _require(isinstance(items, (tuple, list)), "a dict of an unknown kind")
        self._spend(len(items))
        return Mapping(items)


def load_arrays(path: str | Path) -> Any:
    """What a pickle holds, its arrays as tensors and its numpy scalars as numbers.

    Raises:
        Exception: of many types, if it is damaged or holds more than arrays and containers.
    """
    return _with_tensors(ArrayUnpickler(Path(path).read_bytes()).load(), {})


def _with_tensors(content: Any, done: dict[int, Any]) -> Any:
    """The content with new containers; `done` has those that are found again, also in itself."""
    if id(content) in done:
        return done[id(content)]
    if isinstance(content, Array):
        done[id(content)] = content.tensor()
    elif isinstance(content, dict):
        found: dict[Any, Any] = {}
        done[id(content)] = found
        found.update((key, _with_tensors(value, done)) for key, value in content.items())
    elif isinstance(content, list):
        values: list[Any] = []
        done[id(content)] = values
        values.extend(_with_tensors(value, done) for value in content)
    elif isinstance(content, tuple):
        done[id(content)] = tuple([_with_tensors(value, done) for value in content])
    elif isinstance(content, (Part, DType)):
        raise pickle.UnpicklingError("it holds a type of arrays, which is not an array")
    else:
        return content
    return done[id(content)]


def bytes_of_nothing() -> bytes:
    """What Python 3 calls for empty bytes in older protocols."""
    return b""


def _bytes(data: Any) -> bytes:
    if isinstance(data, str):  # of Python 2
        return data.encode("latin1")
    _require(isinstance(data, (bytes, bytearray)), "an array without bytes")
    return bytes(data)


def _require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise pickle.UnpicklingError(f"it holds {otherwise}")
