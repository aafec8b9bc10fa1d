"""Building blocks shared by the encoder, the decoder and the heads, and checks of their arguments.

Paper: the feed-forward network of figure 2 (a); Xavier initialisation as in DETR.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint
from torchvision.ops import MLP

Module = TypeVar("Module", bound=nn.Module)

TOKENS = 2048  # per chunk of the feed-forward network, whose hidden layer then fits a CPU's cache


def at_least(minimum: int, **values: int) -> None:
    """Raise ValueError unless every value, passed by its name, is at least `minimum`."""
    for name, value in values.items():
        if not value >= minimum:  # True for NaN as well
            raise ValueError(f"{name} is {value}, must be {minimum} or more")


def between(low: float, high: float, **values: float) -> None:
    """Raise ValueError unless every value, passed by its name, is finite and in [low, high]."""
    for name, value in values.items():
        if not (low <= value <= high and abs(value) != float("inf")):
            limits = f"{low:g} or more" if high == float("inf") else f"in [{low:g}, {high:g}]"
            raise ValueError(f"{name} is {value}, must be {limits}")


class FeedForward(MLP):
    """Two-layer feed-forward network of a transformer layer, with DETR's two dropouts.

    Args:
        dim: C.
        hidden_dim: channels of the hidden layer.
        dropout: rate after each of the two layers.
        activation: class of the activation function.
    """

    def __init__(
        self,
        dim: int,
        hidden_dim: int,
        dropout: float = 0.0,
        activation: type[nn.Module] = nn.ReLU,
    ):
        at_least(1, dim=dim, hidden_dim=hidden_dim)
        between(0, 1, dropout=dropout)
        super().__init__(dim, [hidden_dim, dim], activation_layer=activation, dropout=dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, C) to (B, S, C)."""
        if torch.is_grad_enabled() or not eager_on_cpu(x.device):
            return super().forward(x)
        chunks = [super(FeedForward, self).forward(chunk) for chunk in x.split(TOKENS, dim=1)]
        return torch.cat(chunks, dim=1)


class NarrowConv2d(nn.Conv2d):
    """Convolution that trains in float32 where its input is one column wide.

    On a CPU oneDNN leaves parts of the weight's bfloat16 gradient unwritten there (torch 2.14).
    """

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Private, but where `forward` passes the weight, which subclasses compute."""
        if not torch.is_grad_enabled() or x.shape[-1] > 1:
            return super()._conv_forward(x, weight, bias)
        with full_precision(x.device):
            return super()._conv_forward(x.to(weight.dtype), weight, bias)


class Recomputed(nn.Module):
    """Mixin that adds activation checkpointing to the next class in the MRO.

    The layer keeps only its inputs and runs its forward pass again during backward: less memory in
    training for about a third more time (https://arxiv.org/abs/1604.06174). Parameters and their
    names do not change, so checkpoints fit both ways. In a config, or on the command line as
    `model.decoder.layer._target_=samdetr.modeling.RecomputedDecoderLayer`:

        model.encoder.layer._target_ = RecomputedEncoderLayer
        model.decoder.layer._target_ = RecomputedDecoderLayer
    """

    def forward(self, *inputs: Any) -> Tensor:
        """Same as the layer's own `forward`."""
        if not torch.is_grad_enabled():
            return super().forward(*inputs)
        return checkpoint(super().forward, *inputs, use_reentrant=False)


def is_traced() -> bool:
    """Return True while a graph is recorded, by tracing or compilation."""
    return bool(torch.compiler.is_compiling() or torch.jit.is_tracing())


def eager_on_cpu(device: torch.device) -> bool:
    """Return True when running eagerly on a CPU, i.e. neither traced nor compiled.

    Only then may code loop over chunks that fit the cache, or let list lengths depend on values.
    """
    return device.type == "cpu" and not is_traced()


def numbers(values: Sequence[Any], like: Tensor) -> Tensor:
    """Return numbers as a tensor of the dtype and on the device of `like`.

    Same as `like.new_tensor(values)`, but does not synchronise with the device.
    """
    if torch.jit.is_tracing():  # sizes are tensors then, which torch.tensor would freeze
        return torch.stack(
            [numbers(x, like) if isinstance(x, Sequence) else torch.as_tensor(x) for x in values]
        ).to(like)
    return torch.tensor(values, dtype=like.dtype).to(like.device, non_blocking=True)


def full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Context manager that disables autocast; a no-op on devices without it, such as "meta"."""
    available = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if available else nullcontext()


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[Any]:
    """Context manager that enables autocast to `dtype`; a no-op for float32 and float64."""
    low = dtype.itemsize < torch.float32.itemsize
    return torch.autocast(device.type, dtype) if low else nullcontext()


def precision(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype for scores, sums and locations: `dtype`, but at least float32."""
    # torch.promote_types would count as an operator when tracing or profiling.
    return dtype if dtype.itemsize >= torch.float32.itemsize else torch.float32


def at_least_float32(x: Tensor) -> Tensor:
    """Cast a tensor of lower precision to float32."""
    return x.to(precision(x.dtype))


def xavier_matrices_(module: nn.Module) -> None:
    """Initialise every parameter of two or more dimensions by Xavier-uniform, in place.

    DETR and the released SAM-DETR do this to the whole transformer once it is built.
    """
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)


def clones(template: Module, count: int) -> list[Module]:
    """Return independent copies of a module, each newly initialised.

    Children are initialised before their parents, so that the `reset_parameters` of a parent
    overrides those of its children.
    """
    copies = [deepcopy(template) for _ in range(count)]
    for copy in copies:
        copy.apply(reset_parameters)
    return copies


def reset_parameters(module: nn.Module) -> None:
    """Call `module.reset_parameters()` if the module has it, as torch's own modules do."""
    reset = getattr(module, "reset_parameters", None)
    if reset is not None:
        reset()


@contextmanager
def meta_device() -> Iterator[None]:
    """Build modules on the meta device: without memory and initial values."""
    with torch.device("meta"), LinspaceOnCPU():
        yield


class LinspaceOnCPU(TorchFunctionMode):
    """Keeps `torch.linspace` off the meta device: Detectron2's transformers read its values."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        options = {"device": "cpu"} if func is torch.linspace else {}
        return func(*args, **{**options, **(kwargs or {})})
