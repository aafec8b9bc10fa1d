"""Weights of other implementations under the names of this one.

Sources: the official SAM-DETR (https://github.com/ZhangGongjie/SAM-DETR) and the original DETR
(https://github.com/facebookresearch/detr), whose names are torchvision's for the backbone.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from detectron2.data import MetadataCatalog
from torch import Tensor

StateDict = dict[str, Tensor]
Rules = list[tuple[str, str]]  # pattern and replacement, applied to a name in turn

# An MLP of torchvision counts its activations and dropouts: layer i is number 3 * i.
SHARED: Rules = [
    (r"^backbone\.0\.body\.(conv1|bn1)\.", r"backbone.stem.\1."),
    *((rf"^backbone\.0\.body\.layer{i}\.", rf"backbone.res{i + 1}.") for i in (1, 2, 3, 4)),
    (r"\.downsample\.0\.", r".shortcut."),
    (r"\.downsample\.1\.", r".shortcut.norm."),
    (r"^(backbone.*)\.bn(\d)\.", r"\1.conv\2.norm."),
    (r"^transformer\.(en|de)coder\.layers\.", r"\1coder.layers."),
    (r"^(encoder.*)\.self_attn\.in_proj_", r"\1.attention.in_proj."),
    (r"^(encoder.*)\.self_attn\.out_proj\.", r"\1.attention.output."),
    (r"^(decoder.*)\.self_attn\.in_proj_", r"\1.self_attention.in_proj."),
    (r"^(decoder.*)\.self_attn\.out_proj\.", r"\1.self_attention.output."),
    (r"\.linear1\.", r".feed_forward.0."),
    (r"\.linear2\.", r".feed_forward.3."),
]
OFFICIAL: Rules = [
    *SHARED,
    (r"^transformer\.level_embed$", r"neck.level_embedding.weight"),
    *(
        (rf"^(encoder.*)\.self_attn\.{theirs}\.", rf"\1.attention.{ours}.")
        for theirs, ours in (
            ("sampling_offsets", "offsets"),
            ("attention_weights", "weights"),
            ("value_proj", "value"),
            ("output_proj", "output"),
        )
    ),
    *(
        (rf"\.{block}_{short}{kind}_proj\.", f".{attention}.{long}_{word}.")
        for block, attention in (("sa", "self_attention"), ("ca", "cross_attention"))
        for short, long in (("q", "query"), ("k", "key"))
        for kind, word in (("content", "content"), ("pos", "position"))
    ),
    *(
        (rf"\.ca_{short}pos_sine_proj\.layers\.{i}\.", f".cross_attention.{long}_position.{3 * i}.")
        for short, long in (("q", "query"), ("k", "key"))
        for i in (0, 1)
    ),
    (r"\.sa_v_proj\.", r".self_attention.value."),
    (r"\.ca_v_proj\.", r".cross_attention.value."),
    (r"\.cross_attn\.out_proj\.", r".cross_attention.output."),
    (r"\.point1\.0\.", r".aligner.resampler.reduce."),
    *((rf"\.point2\.{2 * i}\.", f".aligner.resampler.describe.{3 * i}.") for i in (0, 1, 2)),
    (r"\.point2\.6\.", r".aligner.resampler.keypoints."),
    (r"\.attn1\.", r".aligner.content_gate.coefficients."),
    (r"\.attn2\.", r".aligner.position_gate.coefficients."),
    (r"^query_embed\.", r"queries.reference."),
    (r"^input_proj\.", r"neck.projections."),
    (r"^class_embed\.(\d+)\.", r"decoder.heads.\1.classes."),
    *(
        (rf"^bbox_embed\.(\d+)\.layers\.{i}\.", rf"decoder.heads.\1.boxes.{3 * i}.")
        for i in (0, 1, 2)
    ),
]
DETR: Rules = [
    *SHARED,
    (r"\.multihead_attn\.in_proj_", r".cross_attention.in_proj."),
    (r"\.multihead_attn\.out_proj\.", r".cross_attention.output."),
    (r"^transformer\.decoder\.norm\.", r"decoder.heads.0.norm."),
    (r"^query_embed\.", r"decoder.position.embedding."),
    (r"^input_proj\.", r"neck.projections.0.0."),
    *((rf"^bbox_embed\.layers\.{i}\.", f"decoder.heads.0.boxes.{3 * i}.") for i in (0, 1, 2)),
]


def rename(name: str, rules: Rules) -> str:
    """The name of a parameter after all rules."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def official_to_samdetr(state: Mapping[str, Tensor]) -> StateDict:
    """Weights of an official SAM-DETR: single- or multi-scale, with or without SMCA.

    Args:
        state: official names and tensors.

    Returns:
        Names and tensors of the SAMDETR that the config of the same variant builds.

    Raises:
        ValueError: if the weights are no such model's.
    """
    if "query_embed.weight" not in state or state["query_embed.weight"].shape[-1] != 4:
        raise ValueError("not an official SAM-DETR: query_embed.weight of 4 columns is missing")
    rows, dim = state["transformer.decoder.layers.0.attn1.weight"].shape
    num_points = rows // dim
    converted: StateDict = {}
    for name, tensor in state.items():
        new = rename(name, OFFICIAL)
        if name.startswith("transformer.decoder.bbox_embed."):
            continue  # a second name of bbox_embed.*
        if ".resampler.keypoints." in new:
            # With SMCA one matrix predicts the keypoints and, below them, the Gaussians' scales.
            tensor, scales = tensor[: 2 * num_points], tensor[2 * num_points :]
            if len(scales):
                scale = new.replace("aligner.resampler.keypoints", "cross_attention.prior.scale")
                converted[scale] = scales
        converted[new] = tensor
    return converted


def detr_to_samdetr(state: Mapping[str, Tensor]) -> StateDict:
    """Weights of an original single-scale DETR, less its class head.

    That head is made for a softmax with a "no object" class, which the focal loss has not.

    Args:
        state: original names and tensors.

    Returns:
        Names and tensors for the SAMDETR of a `detr_*` config with as many queries.

    Raises:
        ValueError: if the weights are no such model's.
    """
    if "transformer.decoder.layers.0.multihead_attn.in_proj_weight" not in state:
        raise ValueError(
            "not an original DETR: transformer.decoder.layers.0.multihead_attn.in_proj_weight "
            "is missing"
        )
    return {rename(k, DETR): v for k, v in state.items() if not k.startswith("class_embed.")}


def coco80(state: Mapping[str, Tensor]) -> StateDict:
    """Converted weights with the class rows of COCO's 80 classes alone, in Detectron2's order.

    The official models have a row for each of COCO's category ids, 0 to 90.
    """
    return {k: v[coco_class_rows(len(v))] if ".classes." in k else v for k, v in state.items()}


def coco_class_rows(count: int) -> list[int]:
    """Rows of COCO's 80 classes, in Detectron2's order, among `count` category ids from 0."""
    ids = MetadataCatalog.get("coco_2017_val").thing_dataset_id_to_contiguous_id
    if count <= max(ids):
        raise ValueError(f"expected a row for each COCO id up to {max(ids)}, got {count} rows")
    return sorted(ids, key=ids.get)


def read_state_dict(path: str | Path) -> StateDict:
    """The weights in a DETR-style .pth file, without running anything that it holds.

    Args:
        path: a file of torch.save: the state dict itself, or a dict that has it under "model"
            beside the optimiser and command-line arguments of the training.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds no state dict.
    """
    with torch.serialization.safe_globals([argparse.Namespace]):
        content = torch.load(path, map_location="cpu", weights_only=True)
    state = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(x, Tensor) for x in state.values()):
        raise ValueError(f"{path} holds no state dict, neither as a whole nor under 'model'")
    return state


def half_precision(state: Mapping[str, Tensor]) -> StateDict:
    """The same weights in half the bytes; a model that loads them stays in float32."""
    return {k: v.half() if v.is_floating_point() else v for k, v in state.items()}


def save_model(state: StateDict, path: str | Path) -> None:
    """Write weights so that Detectron2's `DetectionCheckpointer` loads them."""
    torch.save({"model": state, "__author__": "samdetr"}, path)
