"""Weights of the official SAM-DETR, both ways, of the original DETR and of torchvision's ResNets.

Also COCO's class rows: the official heads have one per category id, Detectron2's one per class.
Functions take and return weights by name; they raise ConversionError if these are of another model.

SAM-DETR: https://github.com/ZhangGongjie/SAM-DETR, DETR: https://github.com/facebookresearch/detr.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch
from detectron2.data import MetadataCatalog
from torch import Tensor

from ..checkpoint import TRAINING_ONLY
from .rules import (
    BACKBONE,
    ENCODER,
    FEED_FORWARD,
    NORMS,
    RESNET,
    ConversionError,
    Pairs,
    Rules,
    StateDict,
    listed,
    packed,
    renamed,
    require,
    rules,
    within,
    without_counters,
)

MODEL = "an official SAM-DETR"
GATE = "transformer.decoder.layers.0.attn1.weight"
ALIAS = "transformer.decoder.bbox_embed."  # second name of the box heads
QUERIES = "queries.reference.weight"
KEYPOINTS, SCALE = ".aligner.resampler.keypoints.", ".cross_attention.prior.scale."
CLASS_ROWS = re.compile(r"decoder\.heads\.\d+\.classes\.|denoising\.labels\.")
UNUSED = -100.0  # logit of an id without a class: its score is 0

DEFORMABLE: Pairs = within(
    "transformer.encoder.layers.#",
    "encoder.layers.#",
    [
        *FEED_FORWARD,
        *NORMS,
        ("self_attn.sampling_offsets", "attention.offsets"),
        ("self_attn.attention_weights", "attention.weights"),
        ("self_attn.value_proj", "attention.value"),
        ("self_attn.output_proj", "attention.output"),
    ],
)
DECODER: Pairs = [
    *FEED_FORWARD,
    *NORMS,
    *(
        (f"{block}_{short}{kind}_proj", f"{attention}.{long}_{word}")
        for block, attention in (("sa", "self_attention"), ("ca", "cross_attention"))
        for short, long in (("q", "query"), ("k", "key"))
        for kind, word in (("content", "content"), ("pos", "position"))
        if (block, kind) != ("ca", "pos")
    ),
    *(
        (f"ca_{short}pos_sine_proj.layers.{i}", f"cross_attention.{long}_position.{3 * i}")
        for short, long in (("q", "query"), ("k", "key"))
        for i in (0, 1)
    ),
    ("sa_v_proj", "self_attention.value"),
    ("ca_v_proj", "cross_attention.value"),
    ("self_attn.out_proj", "self_attention.output"),
    ("cross_attn.out_proj", "cross_attention.output"),
    ("point1.0", "aligner.resampler.reduce"),
    *((f"point2.{2 * i}", f"aligner.resampler.describe.{3 * i}") for i in (0, 1, 2)),
    ("point2.6", "aligner.resampler.keypoints"),
    ("attn1", "aligner.content_gate.coefficients"),
    ("attn2", "aligner.position_gate.coefficients"),
]
COMMON: Pairs = [
    *BACKBONE,
    *within("transformer.decoder.layers.#", "decoder.layers.#", DECODER),
    ("transformer.level_embed", "neck.level_embedding.weight"),
    ("query_embed", "queries.reference"),
    ("input_proj", "neck.projections"),
    ("class_embed.#", "decoder.heads.#.classes"),
    *((f"bbox_embed.#.layers.{i}", f"decoder.heads.#.boxes.{3 * i}") for i in (0, 1, 2)),
]
OFFICIAL: Rules = rules([*COMMON, *ENCODER, *DEFORMABLE])

ORIGINAL = "an original DETR"
CLASSES = "class_embed."
PRIOR_LOGIT = -math.log(99)  # of probability 0.01, the focal prior of every class
DETR_DECODER: Pairs = [
    *FEED_FORWARD,
    *NORMS,
    *packed("self_attn", "self_attention"),
    *packed("multihead_attn", "cross_attention"),
]
DETR: Rules = rules(
    [
        *BACKBONE,
        *ENCODER,
        *within("transformer.decoder.layers.#", "decoder.layers.#", DETR_DECODER),
        ("transformer.decoder.norm", "decoder.heads.0.norm"),
        ("query_embed", "decoder.position.embedding"),
        ("input_proj", "neck.projections.0.0"),
        ("class_embed", "decoder.heads.0.classes"),
        *((f"bbox_embed.layers.{i}", f"decoder.heads.0.boxes.{3 * i}") for i in (0, 1, 2)),
    ]
)
# Detectron2 calls the classifier of a ResNet `linear`; detectors have none and ignore it.
TORCHVISION: Rules = rules([*RESNET, ("fc", "linear")])


def official_to_samdetr(state: Mapping[str, Tensor]) -> StateDict:
    """Convert an official SAM-DETR, single- or multi-scale, with or without SMCA.

    The result is for the SAMDETR that the config of the same variant builds.
    """
    require(state, MODEL, "query_embed.weight", GATE)
    rows, dim = state[GATE].shape
    num_points = rows // dim
    kept = {name: tensor for name, tensor in state.items() if not name.startswith(ALIAS)}
    converted: StateDict = {}
    for name, tensor in renamed(kept, OFFICIAL, MODEL).items():
        if KEYPOINTS in name:
            # With SMCA, one matrix predicts the keypoints and then the scales of the Gaussians.
            tensor, scales = tensor[: 2 * num_points], tensor[2 * num_points :]
            if len(scales):
                converted[name.replace(KEYPOINTS, SCALE)] = scales
        converted[name] = tensor
    return converted


def samdetr_to_official(state: Mapping[str, Tensor]) -> StateDict:
    """Convert the model of a `sam_detr_*` or `sam_detr_pp_*` config to the official names.

    The parameters of denoising are left out: the official code has none, and inference does not
    use them. The box heads are returned under both of their official names.
    """
    require(state, "a SAM-DETR", QUERIES)
    dense = any(name.endswith(".attention.in_proj.weight") for name in state)
    pairs = [*COMMON, *(ENCODER if dense else DEFORMABLE)]
    back = rules([(ours, theirs) for theirs, ours in pairs])
    official = renamed(_joined(state), back, "a SAM-DETR")
    first = within("transformer.decoder.layers.0", "", DECODER)
    lacking = [name for name, _ in first if f"{name}.weight" not in official]
    if lacking:
        raise ConversionError(f"a SAM-DETR without parts of the official one: {listed(lacking)}")
    box = ALIAS.removeprefix("transformer.decoder.")
    aliases = {f"transformer.decoder.{k}": v for k, v in official.items() if k.startswith(box)}
    return official | aliases


def _joined(state: Mapping[str, Tensor]) -> StateDict:
    """Return weights with keypoints and scales in one matrix, and without denoising."""
    joined = {}
    for name, tensor in state.items():
        scale = name.replace(KEYPOINTS, SCALE)
        if SCALE in name or name.startswith(TRAINING_ONLY):
            continue
        both = KEYPOINTS in name and scale in state
        joined[name] = torch.cat([tensor, state[scale]]) if both else tensor
    return joined


def coco80(state: Mapping[str, Tensor]) -> StateDict:
    """Return converted weights with the class rows of COCO's 80 classes, in Detectron2's order.

    A head must have a row for each of COCO's category ids, 0 to 90.
    """
    return {k: v[coco_class_rows(len(v))] if CLASS_ROWS.match(k) else v for k, v in state.items()}


def coco91(state: Mapping[str, Tensor]) -> StateDict:
    """Return weights with a class row per category id, 0 to 90; ids without a class never fire.

    A head must have 80 rows.
    """
    return {k: _spread(v, k) if CLASS_ROWS.match(k) else v for k, v in state.items()}


def coco_class_rows(count: int) -> list[int]:
    """Return the rows of COCO's 80 classes, in Detectron2's order, in a head of `count` rows."""
    ids = MetadataCatalog.get("coco_2017_val").thing_dataset_id_to_contiguous_id
    if count <= max(ids):
        raise ConversionError(f"expected a row for each COCO id up to {max(ids)}, got {count} rows")
    return sorted(ids, key=ids.get)


def _spread(rows: Tensor, name: str) -> Tensor:
    ids = coco_class_rows(91)
    if len(rows) != len(ids):
        raise ConversionError(f"{name} has {len(rows)} rows, expected one for each of 80 classes")
    spread = rows.new_full((91, *rows.shape[1:]), UNUSED if rows.dim() == 1 else 0.0)
    spread[ids] = rows
    return spread


def detr_to_samdetr(state: Mapping[str, Tensor]) -> StateDict:
    """Convert an original single-scale DETR without its class head.

    That head is trained with a softmax and a "no object" class, which the focal loss does not have.
    The result is for the SAMDETR of a `detr_*` config with as many queries.
    """
    require(state, ORIGINAL, "transformer.decoder.layers.0.multihead_attn.in_proj_weight")
    return renamed({k: v for k, v in state.items() if not k.startswith(CLASSES)}, DETR, ORIGINAL)


def detr_to_baseline(state: Mapping[str, Tensor]) -> StateDict:
    """Convert an original DETR for a `detr_*` config, with a new class head at the focal prior.

    The head makes the file complete for a strict checkpointer; it has no row for "no object".
    """
    values = {f"{CLASSES}weight": 0.0, f"{CLASSES}bias": PRIOR_LOGIT}
    new = {k: state[k][:-1].clone().fill_(x) for k, x in values.items() if k in state}
    return {**detr_to_samdetr(state), **renamed(new, DETR, ORIGINAL)}


def detr_to_softmax(state: Mapping[str, Tensor]) -> StateDict:
    """Convert all weights of an original DETR, for a `detr_softmax_*` config."""
    require(state, "a complete original DETR", f"{CLASSES}weight")
    head = {k: v for k, v in state.items() if k.startswith(CLASSES)}
    return {**detr_to_samdetr(state), **split_classes(renamed(head, DETR, ORIGINAL))}


def split_classes(classes: StateDict) -> StateDict:
    """Split the rows of a softmax head into those of the classes and, the last, "no object"."""
    rows = {name: tensor[:-1] for name, tensor in classes.items()}
    return rows | {k.replace(".classes.", ".nothing."): v[-1:] for k, v in classes.items()}


def torchvision_to_detectron2(state: Mapping[str, Tensor]) -> StateDict:
    """Convert a ResNet, ResNeXt or wide ResNet of torchvision to Detectron2's names.

    The names have no prefix, like those of the backbones in Detectron2's model zoo; a checkpointer
    finds them with `matching_heuristics`. Such backbones take RGB images, divided by 255 and
    normalised, and have the strides in their 3x3 convolutions (`stride_in_1x1=False`).
    """
    model = "a ResNet of torchvision"
    require(state, model, "conv1.weight", "layer1.0.conv1.weight")
    return renamed(without_counters(state), TORCHVISION, model)
