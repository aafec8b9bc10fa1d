"""The state of a run in a checkpoint, found out to be one before anything is taken from it.

torch's optimisers believe what they load: their fused kernels go through the memory of a moment as
far as that of its parameter reaches.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..tensors import entries, fault_of_tensor

STEP = "step"  # of the state of a parameter: how often it was stepped
KERNELS = ("fused", "foreach")  # a run has its own, whatever it goes on from
# What a fused kernel goes through beside the parameter.
MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "sum")
GREATEST = 2**63 - 1


def whole_number(state: dict[Any, Any], name: str, least: int = 0) -> int:
    """A whole number of a state. Raises ValueError if it is none, or less than `least`."""
    found = state.get(name)
    if type(found) is not int or not least <= found <= GREATEST:
        raise ValueError(f"{name} is {_shown(found)}, expected a whole number of {least} or more")
    return found


def check_scaler(state: Any) -> None:
    """Check the state of a gradient scaler; an empty one is that of a disabled one.

    Raises:
        ValueError: if a value is no number.
    """
    for name, value in entries(state, "grad_scaler").items():
        _require_number(f"grad_scaler.{name}", value)


def optimizer_state(optimizer: torch.optim.Optimizer, state: Any) -> dict[str, Any]:
    """The state of an optimiser, its tensors with the memory layout of their parameters.

    Args:
        optimizer: whose state it shall become.
        state: what a file holds for it.

    Raises:
        ValueError: if it is not one of such an optimiser for such parameters.
    """
    found = entries(state, "optimizer")
    groups = found.get("param_groups")
    if not isinstance(groups, list) or len(groups) != len(optimizer.param_groups):
        raise ValueError(
            f"optimizer.param_groups are not {len(optimizer.param_groups)}, as in this run"
        )
    groups = [entries(group, "a group of the optimizer") for group in groups]
    parameters: dict[int, Tensor] = {}
    for group, own in zip(groups, optimizer.param_groups):
        indices = group.get("params")
        if not isinstance(indices, list) or len(indices) != len(own["params"]):
            raise ValueError(
                f"a group of the optimizer has not {len(own['params'])} parameters, as in this run"
            )
        if not all(type(index) is int for index in indices):
            raise ValueError("a group of the optimizer does not number its parameters")
        parameters.update(zip(indices, own["params"]))
        _check_settings(group, own)
    moments = entries(found.get("state"), "optimizer.state")
    if strangers := moments.keys() - parameters.keys():
        raise ValueError(f"optimizer.state has no parameter {_shown(strangers.pop())} in this run")
    return {
        "param_groups": groups,
        "state": {i: _moments(x, parameters[i], _needed(optimizer)) for i, x in moments.items()},
    }


def _needed(optimizer: torch.optim.Optimizer) -> set[str]:
    """What an optimiser does not make anew if there is some state."""
    if not isinstance(optimizer, (torch.optim.Adam, torch.optim.AdamW)):
        return set()
    greatest = {"max_exp_avg_sq"} if optimizer.defaults["amsgrad"] else set()
    return {STEP, "exp_avg", "exp_avg_sq"} | greatest


def _moments(state: Any, parameter: Tensor, needed: set[str]) -> dict[str, Any]:
    moments = entries(state, "optimizer.state of a parameter")
    if moments and needed - moments.keys():
        raise ValueError(f"optimizer.state of a parameter has no {min(needed - moments.keys())}")
    return {name: _moment(str(name), value, parameter) for name, value in moments.items()}


def _moment(name: str, value: Any, parameter: Tensor) -> Any:
    if value is None and name == "momentum_buffer":
        return value  # before the first step
    if not isinstance(value, Tensor):
        if name in MOMENTS:
            raise ValueError(f"optimizer.state.{name} is {_shown(value)}, expected a tensor")
        if value is not None or name == STEP:
            _require_number(f"optimizer.state.{name}", value)
        return value
    if kind := fault_of_tensor(value):
        raise ValueError(f"optimizer.state.{name} is {kind}, expected a dense real tensor")
    if name in MOMENTS:
        _require_shape(name, value, parameter.shape)
        with torch.no_grad():
            return torch.empty_like(parameter, requires_grad=False).copy_(value)
    if name == STEP:
        _require_shape(name, value, torch.Size())
        _require_number(f"optimizer.state.{name}", value.item())
    return Tensor.detach(value)


def _require_shape(name: str, value: Tensor, expected: torch.Size) -> None:
    if value.shape != expected:
        raise ValueError(
            f"optimizer.state.{name} has the shape {tuple(value.shape)}, expected {tuple(expected)}"
        )


def _check_settings(group: dict[Any, Any], own: dict[str, Any]) -> None:
    """Check the hyper-parameters of a group; switches may lack, which torch has had more of."""
    for name, value in own.items():
        if name not in group and not (value is None or isinstance(value, bool)):
            raise ValueError(f"a group of the optimizer has no {name}")
    for name, value in group.items():
        if name != "params":
            _check_setting(f"optimizer.{name!s:.40}", value, own.get(name, 0.0))


def _check_setting(name: str, value: Any, own: Any) -> None:
    """Check a hyper-parameter against the one of this run, and that a switch is the same."""
    if isinstance(own, bool) and not name.endswith(KERNELS):
        if value is not own:
            raise ValueError(f"{name} is {_shown(value)}, expected {own} as in this run")
    elif isinstance(own, (tuple, list)):
        if not isinstance(value, (tuple, list)) or len(value) != len(own):
            raise ValueError(f"{name} is {_shown(value)}, expected {len(own)} numbers")
        for one in value:
            _require_number(name, one)
    elif isinstance(own, Tensor) and isinstance(value, Tensor):
        _moment(STEP, value, own)
    elif not (value is None or isinstance(value, (bool, str)) and type(value) is type(own)):
        _require_number(name, value)
    elif value is None and own is not None and not isinstance(own, bool):
        raise ValueError(f"{name} is None, expected {_shown(own)} or the like")


def _require_number(name: str, value: Any) -> None:
    """Of 0 or more, as all of an optimiser's settings and steps are."""
    greatest = GREATEST if isinstance(value, int) else torch.finfo(torch.float32).max
    if not isinstance(value, (int, float)) or not 0 <= value <= greatest:
        raise ValueError(f"{name} is {_shown(value)}, expected a number of 0 or more")


def _shown(value: Any) -> str:
    """A value from anybody in a sentence: short."""
    plain = value is None or isinstance(value, (bool, int, float, str))
    return f"{value!r:.40}" if plain else f"a {type(value).__name__}"
