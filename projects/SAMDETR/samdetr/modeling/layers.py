"""Small pieces that several parts of the transformer are made of."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torchvision.ops import MLP

from .arguments import at_least, between

Module = TypeVar("Module", bound=nn.Module)


TOKENS = 2048  # of a part, whose hidden channels stay in the cache of a CPU


class FeedForward(MLP):
    """The two-layer feed-forward network of a transformer layer, with DETR's two dropouts."""

    def __init__(self, dim: int, hidden_dim: int, dropout: float = 0.0):
        at_least(1, dim=dim, hidden_dim=hidden_dim)
        between(0, 1, dropout=dropout)
        super().__init__(dim, [hidden_dim, dim], dropout=dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, C) to (B, S, C)."""
        if torch.is_grad_enabled() or not eager_on_cpu(x.device):
            return super().forward(x)
        parts = [super(FeedForward, self).forward(part) for part in x.split(TOKENS, dim=1)]
        return torch.cat(parts, dim=1)


def eager_on_cpu(device: torch.device) -> bool:
    """If a device is a CPU, and what happens there does not become a graph for other sizes.

    There loops over parts that stay in the cache pay, and numbers may decide how long lists are.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    return device.type == "cpu"


def numbers(values: Sequence[Any], like: Tensor) -> Tensor:
    """Numbers as a tensor of the dtype and on the device of another.

    As `like.new_tensor(values)`, but torch does not wait until the device has done all before.
    """
    if torch.jit.is_tracing():  # sizes are tensors then, of which `tensor` would make constants
        return torch.stack(
            [numbers(x, like) if isinstance(x, Sequence) else torch.as_tensor(x) for x in values]
        ).to(like)
    return torch.tensor(values, dtype=like.dtype).to(like.device, non_blocking=True)


def full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """No autocast inside of it; there is none on devices without numbers, such as "meta"."""
    available = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if available else nullcontext()


def precision(dtype: torch.dtype) -> torch.dtype:
    """That of scores, sums and places: at least float32."""
    # `torch.promote_types` is an operator to what traces or counts operators.
    return dtype if dtype.itemsize >= torch.float32.itemsize else torch.float32


def at_least_float32(x: Tensor) -> Tensor:
    """A tensor in float32 if its precision is lower."""
    return x.to(precision(x.dtype))


def xavier_matrices_(module: nn.Module) -> None:
    """Xavier-uniform initialisation of every parameter of two or more dimensions, in place.

    DETR and the released SAM-DETR do this to the whole transformer once it is built.
    """
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)


def clones(template: Module, count: int) -> list[Module]:
    """Independent copies of a module, each newly initialised.

    Children are initialised before their parents, so that a parent's `reset_parameters` has the
    last word.
    """
    copies = [deepcopy(template) for _ in range(count)]
    for copy in copies:
        copy.apply(reset_parameters)
    return copies


def reset_parameters(module: nn.Module) -> None:
    """Initialise what a module itself holds, if it says how, as torch's modules do."""
    reset = getattr(module, "reset_parameters", None)
    if reset is not None:
        reset()
