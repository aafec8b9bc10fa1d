"""What counts as weights in a file from anybody: plain tensors by name, in a plain dict.

What torch's safe unpickler builds can be less plain: dicts with attributes in the place of their
methods, and tensors whose numbers are not there, or not where an operator looks for them.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn


def entries(content: Any, what: str = "it") -> dict[Any, Any]:
    """A dict with the keys and values of `content`, whatever attributes that has.

    Raises:
        ValueError: if it is no dict.
    """
    if not isinstance(content, dict):
        raise ValueError(f"{what} is a {type(content).__name__}, expected values by name")
    return dict(dict.items(content))


def plain_weights(state: Any) -> dict[str, Tensor]:
    """The tensors by name, without gradients and attributes but torch's versions of modules.

    Raises:
        ValueError: if there are none, or others than dense ones of real numbers.
    """
    weights = entries(state)
    if not weights:
        raise ValueError("it is empty, expected tensors by name")
    for name, value in weights.items():
        kind = fault_of_tensor(value)
        if not isinstance(name, str) or kind:
            raise ValueError(
                f"{name!s:.200} is {kind or 'not a name'}, expected dense real tensors"
            )
    plain = OrderedDict((name, Tensor.detach(value)) for name, value in weights.items())
    if "_metadata" in getattr(state, "__dict__", {}):
        plain._metadata = _versions(vars(state)["_metadata"])  # type: ignore[attr-defined]
    return plain


def matched_by_heuristics(content: dict[Any, Any]) -> bool:
    """Whether Detectron2 shall match the names by their endings. Raises ValueError if unclear."""
    found = content.get("matching_heuristics", False)
    if not isinstance(found, bool):
        raise ValueError(f"matching_heuristics is a {type(found).__name__}, expected True or False")
    return found


def fault_of_tensor(value: Any) -> str:
    """What is wrong with a value; "" for a dense tensor of real numbers."""
    if type(value) not in (Tensor, nn.Parameter):
        return f"a {type(value).__name__}"
    kinds = {
        "nested": value.is_nested,
        "sparse": value.layout is not torch.strided,
        "quantised": value.is_quantized,
        "without numbers (on 'meta')": value.is_meta,
        "complex": value.dtype.is_complex,
    }
    return ", ".join(kind for kind, given in kinds.items() if given)


def _versions(metadata: Any) -> dict[str, dict[str, int]]:
    """The versions by module, by which modules load the weights of older ones."""
    found = {}
    for name, values in entries(metadata, "_metadata").items():
        version = entries(values, "_metadata of a module").get("version")
        if not isinstance(name, str) or not (version is None or type(version) is int):
            raise ValueError("_metadata holds no versions of modules")
        found[name] = {} if version is None else {"version": version}
    return found
