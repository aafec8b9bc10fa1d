"""Weights of the official SAM-DETR (https://github.com/ZhangGongjie/SAM-DETR), both ways."""

from __future__ import annotations

from collections.abc import Mapping

import torch
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
    listed,
    renamed,
    rules,
    swapped,
    within,
)

# The decoder has the box heads under a second name.
ALIAS = "transformer.decoder.bbox_embed."
QUERIES = "queries.reference.weight"
KEYPOINTS, SCALE = ".aligner.resampler.keypoints.", ".cross_attention.prior.scale."
TRAINING_ONLY = "denoising."

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


def official_to_samdetr(state: Mapping[str, Tensor]) -> StateDict:
    """Weights of an official SAM-DETR: single- or multi-scale, with or without SMCA.

    Args:
        state: official names and tensors.

    Returns:
        Names and tensors of the SAMDETR that the config of the same variant builds.

    Raises:
        ConversionError: if the weights are no such model's.
    """
    if "query_embed.weight" not in state or state["query_embed.weight"].shape[-1] != 4:
        raise ConversionError(
            "not an official SAM-DETR: query_embed.weight of 4 columns is missing"
        )
    gate = "transformer.decoder.layers.0.attn1.weight"
    if gate not in state:
        raise ConversionError(f"not an official SAM-DETR: {gate} is missing")
    rows, dim = state[gate].shape
    kept = {name: tensor for name, tensor in state.items() if not name.startswith(ALIAS)}
    converted: StateDict = {}
    for name, tensor in renamed(kept, OFFICIAL, "an official SAM-DETR").items():
        if KEYPOINTS in name:
            # With SMCA one matrix predicts the keypoints and, below them, the Gaussians' scales.
            num_points = rows // dim
            tensor, scales = tensor[: 2 * num_points], tensor[2 * num_points :]
            if len(scales):
                converted[name.replace(KEYPOINTS, SCALE)] = scales
        converted[name] = tensor
    return converted


def samdetr_to_official(state: Mapping[str, Tensor]) -> StateDict:
    """Weights of a `sam_detr_*` or `sam_detr_pp_*` config's model under the official names.

    What denoising queries have learned is left out: the official code has none, and inference does
    without.

    Args:
        state: our names and tensors.

    Returns:
        Official names and tensors; the box heads are there under both of their names.

    Raises:
        ConversionError: if the weights are no such model's.
    """
    if QUERIES not in state:
        raise ConversionError(f"not a SAM-DETR: {QUERIES} is missing")
    dense = any(name.endswith(".attention.in_proj.weight") for name in state)
    back = rules(swapped([*COMMON, *(ENCODER if dense else DEFORMABLE)]))
    official = renamed(_joined(state), back, "a SAM-DETR")
    first = within("transformer.decoder.layers.0", "", DECODER)
    lacking = [name for name, _ in first if f"{name}.weight" not in official]
    if lacking:
        raise ConversionError(f"a SAM-DETR without what the official one has: {listed(lacking)}")
    box = ALIAS.removeprefix("transformer.decoder.")
    aliases = {f"transformer.decoder.{k}": v for k, v in official.items() if k.startswith(box)}
    return official | aliases


def _joined(state: Mapping[str, Tensor]) -> StateDict:
    """The weights with keypoints and scales in one matrix, and without denoising queries."""
    joined = {}
    for name, tensor in state.items():
        scale = name.replace(KEYPOINTS, SCALE)
        if SCALE in name or name.startswith(TRAINING_ONLY):
            continue
        both = KEYPOINTS in name and scale in state
        joined[name] = torch.cat([tensor, state[scale]]) if both else tensor
    return joined
