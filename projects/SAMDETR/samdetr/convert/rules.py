"""Renaming of weights between two implementations, by tables of module names.

A table is a list of pairs (their name, our name) and serves both directions. This module has the
tables that several models share: ResNet in torchvision's names, and the layers of DETR.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import Tensor

from ..errors import ConversionError

StateDict = dict[str, Tensor]
# Their name and ours, of a module or of one parameter; "#" stands for a number that both contain.
Pairs = Sequence[tuple[str, str]]
Rules = list[tuple[str, str]]  # regular expression and replacement, applied to a name in turn

LISTED = 8  # names in an error


def rules(pairs: Pairs) -> Rules:
    """Return rules that turn the first name of every pair into the second."""
    # Longest first: in our names `stem.conv1` is a prefix of `stem.conv1.norm`.
    ordered = sorted(pairs, key=lambda pair: len(pair[0]), reverse=True)
    number = r"(\d+)"
    return [
        (rf"^{number.join(map(re.escape, old.split('#')))}(?=\.|$)", new.replace("#", r"\1"))
        for old, new in ordered
    ]


def within(theirs: str, ours: str, parts: Pairs) -> Pairs:
    """Return the pairs of the parts of a module, prefixed with the names of the module."""
    return [(f"{theirs}.{old}", f"{ours}.{new}") for old, new in parts]


def rename(name: str, rules: Rules) -> str:
    """Return the name of a parameter after all rules."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def renamed(state: Mapping[str, Tensor], rules: Rules, model: str) -> StateDict:
    """Return weights under new names; raise ConversionError if no rule applies to one of them."""
    names = {name: rename(name, rules) for name in state}
    unknown = [old for old, new in names.items() if old == new]
    if unknown:
        raise ConversionError(f"{model} with unknown parts: {listed(unknown)}")
    return {names[name]: tensor for name, tensor in state.items()}


def require(state: Mapping[str, Tensor], model: str, *names: str) -> None:
    """Raise ConversionError unless weights contain all names, which identify a model."""
    for name in names:
        if name not in state:
            raise ConversionError(f"not {model}: {name} is missing")


def without_counters(state: Mapping[str, Tensor]) -> StateDict:
    """Return weights without the batch counters of batch norms, which frozen ones do not have."""
    return {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}


def listed(names: Sequence[str]) -> str:
    """Return the first few names, for an error."""
    return ", ".join(names[:LISTED]) + (", ..." if len(names) > LISTED else "")


def packed(theirs: str, ours: str) -> Pairs:
    """Return the pairs of torch's attention, whose query, key and value share one matrix."""
    kinds = ("weight", "bias")
    return [
        *((f"{theirs}.in_proj_{kind}", f"{ours}.in_proj.{kind}") for kind in kinds),
        (f"{theirs}.out_proj", f"{ours}.output"),
    ]


RESNET: Pairs = [  # torchvision's and Detectron2's
    ("conv1", "stem.conv1"),
    ("bn1", "stem.conv1.norm"),
    *(
        (f"layer{stage}.#.{theirs}", f"res{stage + 1}.#.{ours}")
        for stage in (1, 2, 3, 4)
        for theirs, ours in (
            *((f"conv{i}", f"conv{i}") for i in (1, 2, 3)),
            *((f"bn{i}", f"conv{i}.norm") for i in (1, 2, 3)),
            ("downsample.0", "shortcut"),
            ("downsample.1", "shortcut.norm"),
        )
    ),
]
BACKBONE: Pairs = within("backbone.0.body", "backbone", RESNET)
# Our Sequential counts activation and dropout, too: linear layer i has index 3 * i.
FEED_FORWARD: Pairs = [("linear1", "feed_forward.0"), ("linear2", "feed_forward.3")]
NORMS: Pairs = [(f"norm{i}", f"norm{i}") for i in (1, 2, 3)]
ENCODER: Pairs = within(
    "transformer.encoder.layers.#",
    "encoder.layers.#",
    [*FEED_FORWARD, *NORMS, *packed("self_attn", "attention")],
)
