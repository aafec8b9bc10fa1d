"""Weights of the original DETR (https://github.com/facebookresearch/detr) under our names."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from .rules import (
    BACKBONE,
    ENCODER,
    FEED_FORWARD,
    NORMS,
    ConversionError,
    Pairs,
    Rules,
    StateDict,
    packed,
    renamed,
    rules,
    within,
)

CLASSES = "class_embed."
PRIOR_LOGIT = -math.log(99)  # of probability 0.01, where the focal loss starts every class
DECODER: Pairs = [
    *FEED_FORWARD,
    *NORMS,
    *packed("self_attn", "self_attention"),
    *packed("multihead_attn", "cross_attention"),
]
DETR: Rules = rules(
    [
        *BACKBONE,
        *ENCODER,
        *within("transformer.decoder.layers.#", "decoder.layers.#", DECODER),
        ("transformer.decoder.norm", "decoder.heads.0.norm"),
        ("query_embed", "decoder.position.embedding"),
        ("input_proj", "neck.projections.0.0"),
        ("class_embed", "decoder.heads.0.classes"),
        *((f"bbox_embed.layers.{i}", f"decoder.heads.0.boxes.{3 * i}") for i in (0, 1, 2)),
    ]
)


def detr_to_samdetr(state: Mapping[str, Tensor]) -> StateDict:
    """Weights of an original single-scale DETR, less its class head.

    That head is made for a softmax with a "no object" class, which the focal loss has not.

    Args:
        state: original names and tensors.

    Returns:
        Names and tensors for the SAMDETR of a `detr_*` config with as many queries.

    Raises:
        ConversionError: if the weights are no such model's, here and below.
    """
    needed = "transformer.decoder.layers.0.multihead_attn.in_proj_weight"
    if needed not in state:
        raise ConversionError(f"not an original DETR: {needed} is missing")
    kept = {k: v for k, v in state.items() if not k.startswith(CLASSES)}
    return renamed(kept, DETR, "an original DETR")


def detr_to_baseline(state: Mapping[str, Tensor]) -> StateDict:
    """The same with a new class head, so that a checkpointer finds one; "no object" has no row.

    Args and raises: as `detr_to_samdetr`.
    """
    values = {f"{CLASSES}weight": 0.0, f"{CLASSES}bias": PRIOR_LOGIT}
    new = {k: state[k][:-1].clone().fill_(x) for k, x in values.items() if k in state}
    return {**detr_to_samdetr(state), **renamed(new, DETR, "an original DETR")}


def detr_to_softmax(state: Mapping[str, Tensor]) -> StateDict:
    """All weights of an original DETR, for the model of a `detr_softmax` config.

    Args and raises: as `detr_to_samdetr`.
    """
    head = {k: v for k, v in state.items() if k.startswith(CLASSES)}
    if not head:
        raise ConversionError(f"not a whole original DETR: {CLASSES}weight is missing")
    classes = renamed(head, DETR, "an original DETR")
    return {**detr_to_samdetr(state), **split_classes(classes)}


def split_classes(classes: StateDict) -> StateDict:
    """Rows of a softmax head's classes, and of "no object", which is its last row."""
    rows = {name: tensor[:-1] for name, tensor in classes.items()}
    return rows | {k.replace(".classes.", ".nothing."): v[-1:] for k, v in classes.items()}
