"""Names of weights in two implementations, and how to get from one to the other.

A table of pairs says what is called what, and is read in either direction. Known here are the parts
that several models share: a ResNet, whose names are torchvision's, and the layers of DETR.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import Tensor

from ..errors import ConversionError

StateDict = dict[str, Tensor]
# Their name and ours, of a module or of one parameter; "#" is a number that both have.
Pairs = Sequence[tuple[str, str]]
Rules = list[tuple[str, str]]  # pattern and replacement, applied to a name in turn

LISTED = 8  # names in an error


def rules(pairs: Pairs) -> Rules:
    """Rules that turn the first name of every pair into the second."""
    # `conv1` lies in front of `conv1.norm`: the longer name is tried first.
    ordered = sorted(pairs, key=lambda pair: len(pair[0]), reverse=True)
    return [(_pattern(old), new.replace("#", r"\1")) for old, new in ordered]


def _pattern(name: str) -> str:
    number = r"(\d+)".join(map(re.escape, name.split("#")))
    return rf"^{number}(?=\.|$)"


def swapped(pairs: Pairs) -> Pairs:
    """The same pairs for the way back."""
    return [(ours, theirs) for theirs, ours in pairs]


def within(theirs: str, ours: str, parts: Pairs) -> Pairs:
    """Pairs of the parts of a module, as names that start with the module's."""
    return [(f"{theirs}.{old}", f"{ours}.{new}") for old, new in parts]


def rename(name: str, rules: Rules) -> str:
    """The name of a parameter after all rules."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def renamed(state: Mapping[str, Tensor], rules: Rules, model: str) -> StateDict:
    """The weights under new names.

    Args:
        state: names and tensors.
        rules: of which one must fit every name.
        model: what the weights are, for the error.

    Raises:
        ConversionError: if no rule fits a name.
    """
    names = {name: rename(name, rules) for name in state}
    strangers = [old for old, new in names.items() if old == new]
    if strangers:
        raise ConversionError(f"{model} with parts that are not known: {listed(strangers)}")
    return {names[name]: tensor for name, tensor in state.items()}


def listed(names: Sequence[str]) -> str:
    """The first few names, for an error."""
    return ", ".join(names[:LISTED]) + (", ..." if len(names) > LISTED else "")


def packed(theirs: str, ours: str) -> Pairs:
    """An attention of torch, whose query, key and value projections are one matrix."""
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
# Our layers count activation and dropout: linear layer i is number 3 * i.
FEED_FORWARD: Pairs = [("linear1", "feed_forward.0"), ("linear2", "feed_forward.3")]
NORMS: Pairs = [(f"norm{i}", f"norm{i}") for i in (1, 2, 3)]
ENCODER: Pairs = within(
    "transformer.encoder.layers.#",
    "encoder.layers.#",
    [*FEED_FORWARD, *NORMS, *packed("self_attn", "attention")],
)
