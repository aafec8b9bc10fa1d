"""Weights of the DETRs in the package `transformers` under our names.

Both the names in published files and those of the modules since its version 5 are known. Functions
take and return weights by name; they raise ConversionError if these are of another model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from . import rules as shared
from .official import split_classes
from .rules import ConversionError, Rules, StateDict, listed, rename, require, without_counters

PARTS = ("backbone", "neck", "encoder", "queries", "decoder")

# The ResNet of `transformers`, or timm's, whose names are torchvision's.
BACKBONE: Rules = [
    (r"^model\.backbone\.(conv_encoder\.)?(model\.)?(_backbone\.)?", r"backbone.0.body."),
    (r"^backbone\.0\.body\.embedder\.embedder\.", r"backbone.stem.layer.0."),
    *(
        (rf"^backbone\.0\.body\.encoder\.stages\.{i}\.layers\.", f"backbone.res{i + 2}.")
        for i in range(4)
    ),
    *((rf"^(backbone.*)\.layer\.{i}\.", rf"\1.conv{i + 1}.") for i in range(3)),
    (r"^(backbone.*)\.convolution\.", r"\1."),
    (r"^(backbone.*)\.normalization\.", r"\1.norm."),
]
RULES: Rules = [
    *BACKBONE,
    *shared.rules(shared.BACKBONE),
    (r"^model\.(encoder|decoder)\.", r"\1."),
    (r"(\.self_attn)?\.self_attn_layer_norm\.", r".norm1."),
    (r"(\.cross_attn)?\.(encoder|cross)_attn_layer_norm\.", r".norm2."),
    (r"^(encoder.*)\.final_layer_norm\.", r"\1.norm2."),
    (r"(\.mlp)?\.final_layer_norm\.", r".norm3."),
    (r"^(encoder.*)\.self_attn\.", r"\1.attention."),
    (r"\.(self_attn\.self_attn[._]|self_attn\.|sa_)", r".self_attention."),
    (r"\.(cross_attn\.cross_attn[._]|encoder_attn\.|ca_)", r".cross_attention."),
    (r"\.(q|k|v)_proj\.", r".in_proj.\1."),  # joined to one matrix below
    (r"\.(out|o|output)_proj\.", r".output."),
    (r"\.value_proj\.", r".value."),
    (r"\.q(uery)?_?content_proj\.", r".query_content."),
    (r"\.k(ey)?_?content_proj\.", r".key_content."),
    (r"\.q(uery)?_?pos_proj\.", r".query_position."),
    (r"\.k(ey)?_?pos_proj\.", r".key_position."),
    (r"\.q(uery)?_?pos_sine_proj\.", r".query_target."),
    (r"\.sampling_offsets\.", r".offsets."),
    (r"\.attention_weights\.", r".weights."),
    (r"(\.mlp)?\.fc1\.", r".feed_forward.0."),
    (r"(\.mlp)?\.activation_fn\.", r".feed_forward.1."),
    (r"(\.mlp)?\.fc2\.", r".feed_forward.3."),
    (r"^(en|de)coder\.query_scale\.", r"\1coder.scale."),
    (r"^decoder\.ref_anchor_head\.", r"decoder.position.size."),
    (r"^decoder\.layernorm\.", r"decoder.heads.0.norm."),
    (r"^model\.input_projection\.", r"neck.projections.0.0."),
    (r"^model\.input_proj\.", r"neck.projections."),
    (r"^model\.level_embed$", r"neck.level_embedding.weight"),
    (r"^model\.query_position_embeddings\.", r"decoder.position.embedding."),
    (r"^model\.query_refpoint_embeddings\.", r"queries.reference."),
    (r"^model\.patterns\.", r"queries.patterns."),
    (r"^model\.reference_points\.", r"decoder.reference."),
    (r"^class_embed\.(\d+)\.", r"decoder.heads.\1.classes."),
    (r"^(class_labels_classifier|class_embed)\.", r"decoder.heads.0.classes."),
    # Where boxes move, the decoder has the box heads under a second name.
    (r"^(decoder\.)?bbox_embed\.(\d+)\.", r"decoder.heads.\2.boxes."),
    (r"^(bbox_predictor|decoder\.bbox_embed)\.", r"decoder.heads.0.boxes."),
    *((rf"^(.*)\.layers\.{i}\.(weight|bias)$", rf"\1.{3 * i}.\2") for i in (0, 1, 2)),
]
CONDITIONAL: Rules = [
    (r"^(model\.decoder.*[._])v_proj\.", r"\1value_proj."),
    (r"^model\.decoder\.ref_point_head\.", r"decoder.position.anchor."),
    *RULES,
]
DAB: Rules = [(r"^model\.decoder\.ref_point_head\.", r"decoder.position.project."), *RULES]
QUERIES = "model.query_position_embeddings.weight"


def hf_detr_to_samdetr(state: Mapping[str, Tensor]) -> StateDict:
    """Convert a DetrForObjectDetection for a `detr_softmax_*` config."""
    converted = _converted(state, RULES, "a DETR", QUERIES)
    head = {k: v for k, v in converted.items() if k.startswith("decoder.heads.0.classes.")}
    return converted | split_classes(head)


def hf_conditional_to_samdetr(state: Mapping[str, Tensor]) -> StateDict:
    """Convert a ConditionalDetrForObjectDetection for a `conditional_detr_*` config."""
    needed = "model.decoder.ref_point_head.layers.0.weight"
    return _converted(state, CONDITIONAL, "a Conditional DETR", needed)


def hf_dab_to_samdetr(state: Mapping[str, Tensor]) -> StateDict:
    """Convert a DabDetrForObjectDetection for a `dab_detr_*` config."""
    return _converted(state, DAB, "a DAB-DETR", "model.query_refpoint_embeddings.weight")


def hf_deformable_to_samdetr(state: Mapping[str, Tensor]) -> StateDict:
    """Convert a one-stage DeformableDetrForObjectDetection for a `deformable_detr*` config.

    With box refinement the result is for a `deformable_detr_refine` model. A two-stage model is an
    error.
    """
    needed = (QUERIES, "model.reference_points.weight")
    converted = _converted(state, RULES, "a one-stage Deformable DETR", *needed)
    position, content = state[QUERIES].chunk(2, dim=1)
    converted["decoder.position.embedding.weight"] = position
    converted["queries.content.weight"] = content
    return without_copies(converted)


def _converted(state: Mapping[str, Tensor], rules: Rules, model: str, *needed: str) -> StateDict:
    require(state, f"{model} of transformers", *needed)
    renamed = {rename(name, rules): x for name, x in without_counters(state).items()}
    unknown = [name for name in renamed if not name.startswith(PARTS)]
    if unknown:
        raise ConversionError(f"{model} with unknown parts: {listed(unknown)}")
    return joined_projections(renamed)


def joined_projections(state: StateDict) -> StateDict:
    """Return weights with `in_proj.q.*`, `in_proj.k.*` and `in_proj.v.*` as one `in_proj.*`."""
    pattern = re.compile(r"(.*\.in_proj)\.[qkv]\.(weight|bias)")
    found = {name: pattern.fullmatch(name) for name in state}
    joined = {name: tensor for name, tensor in state.items() if not found[name]}
    for prefix, kind in {match.groups() for match in found.values() if match}:
        parts = [state[f"{prefix}.{part}.{kind}"] for part in "qkv"]
        joined[f"{prefix}.{kind}"] = torch.cat(parts)
    return joined


def without_copies(state: StateDict) -> StateDict:
    """Return weights with one head if all are equal: without refinement the layers share it."""
    prefix = "decoder.heads.0."
    first = {name.removeprefix(prefix): x for name, x in state.items() if name.startswith(prefix)}
    heads = {name: name.split(".", 3)[3] for name in state if name.startswith("decoder.heads.")}
    if any(not state[name].equal(first[part]) for name, part in heads.items()):
        return state
    return {k: v for k, v in state.items() if k not in heads or k.startswith(prefix)}
