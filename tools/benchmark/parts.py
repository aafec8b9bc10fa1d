"""Attribution of a quantity that grows while a model runs (seconds, FLOPs) to the model's parts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

EXPANDED = ("encoder", "decoder", "aligner")  # whose children are parts of their own
DETAILS = ("matcher", "prior")  # told apart from the criterion and from cross-attention
CONTAINERS = ("layers",)
OTHER = "other"


def part_of(module: str) -> str:
    """Return the part that a module belongs to, e.g. "decoder.aligner.pooler".

    Args:
        module: name as in `nn.Module.named_modules`; layers of a stack are the same part.
    """
    names = [x for x in module.split(".") if x and not x.isdigit() and x not in CONTAINERS]
    names = [x.rstrip("0123456789") for x in names]  # norm1, norm2
    end = next((i for i, name in enumerate(names, 1) if name not in EXPANDED), len(names))
    if names[end : end + 1] and names[end] in DETAILS:
        end += 1
    return ".".join(names[:end]) or OTHER


def measure_parts(
    model: nn.Module, reading: Callable[[], float], run: Callable[[], Any]
) -> tuple[Any, dict[str, float]]:
    """Call `run` and attribute the growth of `reading` to the innermost part that is running.

    Args:
        model: its modules get hooks during the call.
        reading: a clock or a counter. It is read only where one part ends and another begins.
        run: calls the model.

    Returns:
        The result of `run`, and the growth by part, without that of parts called inside.
    """
    amounts: defaultdict[str, float] = defaultdict(float)
    running: list[str] = []
    last = reading()

    def settle() -> None:
        nonlocal last
        now = reading()
        if running:
            amounts[running[-1]] += now - last
        last = now

    def enter(part: str, *_: Any) -> None:
        if running[-1:] != [part]:
            settle()
        running.append(part)

    def leave(*_: Any) -> None:
        if running[-2:-1] != running[-1:]:
            settle()
        running.pop()

    hooks = []
    for name, module in model.named_modules():
        hooks.append(module.register_forward_pre_hook(partial(enter, part_of(name))))
        hooks.append(module.register_forward_hook(leave))
    try:
        return run(), dict(amounts)
    finally:
        for hook in hooks:
            hook.remove()
