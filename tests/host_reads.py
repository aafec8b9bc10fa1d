"""What makes the host wait for a device, recorded on a machine that has none."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

TORCH = str(Path(torch.__file__).parent)
# Operators whose result, or its shape, the host has to know.
READS = {
    "aten::_local_scalar_dense": "item",
    "aten::equal": "equal",
    "aten::is_nonzero": "item",
    "aten::masked_select": "masked_select",
    "aten::nonzero": "nonzero",
    "aten::repeat_interleave": "repeat_interleave",
    "aten::_unique2": "unique",
}
INDEXING = ("aten::index", "aten::index_put", "aten::index_put_")
# Calls that on a CPU reach no operator.
COPIES = {"cpu", "numpy", "tolist"}


class HostReads(TorchFunctionMode):
    """Counts, by (file, what), the calls within that would wait if all tensors were on a GPU.

    Copies to the device wait as well, unless they say `non_blocking`: they are "upload". A file is
    that of the nearest caller outside of torch.
    """

    def __init__(self):
        super().__init__()
        self.count = Counter()
        self.operators = Operators(self)

    def __enter__(self):
        self.operators.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self.operators.__exit__(*error)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name, kwargs = getattr(function, "__name__", ""), kwargs or {}
        if name in COPIES:
            self.note(name)
        elif uploads(name, args[1:], kwargs) and not called_by_torch():
            self.note("upload")
        return function(*args, **kwargs)

    def note(self, what):
        frame = sys._getframe(1)
        while frame.f_code.co_filename.startswith((TORCH, __file__)):
            frame = frame.f_back
        self.count[Path(frame.f_code.co_filename).name, what] += 1


class Operators(TorchDispatchMode):
    """The part that sees what is done below Python, as in a backward pass."""

    def __init__(self, reads):
        super().__init__()
        self.reads = reads

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name().split(".")[0]
        if name in READS:
            self.reads.note(READS[name])
        elif name in INDEXING and any(x is not None and x.dtype == torch.bool for x in args[1]):
            self.reads.note("index by a mask")
        return function(*args, **(kwargs or {}))


def uploads(name, args, kwargs):
    """If a call of this name copies to a device, and waits for it."""
    device = kwargs.get("device") is not None
    if name in ("tensor", "as_tensor"):
        return device
    device |= any(isinstance(x, (str, torch.device)) for x in args)
    return name == "new_tensor" or (name == "to" and device and not kwargs.get("non_blocking"))


def called_by_torch():
    """If torch itself made the call, between tensors that are on the device."""
    return sys._getframe(2).f_code.co_filename.startswith(TORCH)
