"""Weights of the original DETR and of torchvision's ResNets under our names.

DETR: https://github.com/facebookresearch/detr.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from .rules import (
    BACKBONE,
    ENCODER,
    FEED_FORWARD,
    NORMS,
    RESNET,
    Pairs,
    Rules,
    StateDict,
    packed,
    renamed,
    require,
    rules,
    within,
    without_counters,
)

MODEL = "an original DETR"
CLASSES = "class_embed."
PRIOR_LOGIT = -math.log(99)  # of probability 0.01, the focal prior of every class
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
# Detectron2 calls the classifier of a ResNet `linear`; detectors have none and ignore it.
TORCHVISION: Rules = rules([*RESNET, ("fc", "linear")])


def detr_to_samdetr(state: Mapping[str, Tensor]) -> StateDict:
    """Convert an original single-scale DETR without its class head.

    That head is trained with a softmax and a "no object" class, which the focal loss does not have.

    Args:
        state: names and tensors of the original.

    Returns:
        Names and tensors for the SAMDETR of a `detr_*` config with as many queries.

    Raises:
        ConversionError: if the weights are not of such a model.
    """
    require(state, MODEL, "transformer.decoder.layers.0.multihead_attn.in_proj_weight")
    return renamed({k: v for k, v in state.items() if not k.startswith(CLASSES)}, DETR, MODEL)


def detr_to_baseline(state: Mapping[str, Tensor]) -> StateDict:
    """Convert an original DETR for a `detr_*` config, with a new class head at the focal prior.

    The head makes the file complete for a strict checkpointer; it has no row for "no object".
    Args and errors: as in `detr_to_samdetr`.
    """
    values = {f"{CLASSES}weight": 0.0, f"{CLASSES}bias": PRIOR_LOGIT}
    new = {k: state[k][:-1].clone().fill_(x) for k, x in values.items() if k in state}
    return {**detr_to_samdetr(state), **renamed(new, DETR, MODEL)}


def detr_to_softmax(state: Mapping[str, Tensor]) -> StateDict:
    """Convert all weights of an original DETR, for a `detr_softmax_*` config.

    Args and errors: as in `detr_to_samdetr`.
    """
    require(state, "a complete original DETR", f"{CLASSES}weight")
    head = {k: v for k, v in state.items() if k.startswith(CLASSES)}
    return {**detr_to_samdetr(state), **split_classes(renamed(head, DETR, MODEL))}


def split_classes(classes: StateDict) -> StateDict:
    """Split the rows of a softmax head into those of the classes and, the last, "no object"."""
    rows = {name: tensor[:-1] for name, tensor in classes.items()}
    return rows | {k.replace(".classes.", ".nothing."): v[-1:] for k, v in classes.items()}


def torchvision_to_detectron2(state: Mapping[str, Tensor]) -> StateDict:
    """Convert a ResNet, ResNeXt or wide ResNet of torchvision to Detectron2's names.

    The names have no prefix, like those of the backbones in Detectron2's model zoo; a checkpointer
    finds them with `matching_heuristics`. Such backbones take RGB images, divided by 255 and
    normalised, and have the strides in their 3x3 convolutions (`stride_in_1x1=False`).

    Args:
        state: torchvision's names and tensors.

    Raises:
        ConversionError: if the weights are not of such a model.
    """
    model = "a ResNet of torchvision"
    require(state, model, "conv1.weight", "layer1.0.conv1.weight")
    return renamed(without_counters(state), TORCHVISION, model)
