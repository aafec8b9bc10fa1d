"""Weights of the DETRs in the package `transformers` under the names of this one.

Known are the names in published files and those that the package has had since its version 5.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from . import rules as shared
from .detr import split_classes
from .files import read_state_dict
from .rules import ConversionError, Rules, StateDict, listed, rename

WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # of a folder; the first that is there
PARTS = ("backbone", "neck", "encoder", "queries", "decoder")

# A ResNet of the package itself, or one of timm, whose names are torchvision's.
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
DETR: Rules = [
    *BACKBONE,
    *shared.rules(shared.BACKBONE),
    (r"^model\.(encoder|decoder)\.", r"\1."),
    (r"^(encoder.*)\.self_attn\.", r"\1.attention."),
    (r"^(decoder.*)\.self_attn\.", r"\1.self_attention."),
    (r"^(decoder.*)\.encoder_attn\.", r"\1.cross_attention."),
    (r"\.(q|k|v)_proj\.", r".in_proj.\1."),  # these three become one matrix later
    (r"\.(out|o)_proj\.", r".output."),
    (r"\.self_attn_layer_norm\.", r".norm1."),
    (r"\.encoder_attn_layer_norm\.", r".norm2."),
    (r"^(encoder.*)\.final_layer_norm\.", r"\1.norm2."),
    (r"^(decoder.*)\.final_layer_norm\.", r"\1.norm3."),
    (r"(\.mlp)?\.fc1\.", r".feed_forward.0."),
    (r"(\.mlp)?\.fc2\.", r".feed_forward.3."),
    (r"^decoder\.layernorm\.", r"decoder.heads.0.norm."),
    (r"^model\.input_projection\.", r"neck.projections.0.0."),
    (r"^model\.query_position_embeddings\.", r"decoder.position.embedding."),
    (r"^(class_labels_classifier|class_embed)\.", r"decoder.heads.0.classes."),
    (r"^bbox_predictor\.", r"decoder.heads.0.boxes."),
    *((rf"^(.*)\.layers\.{i}\.(weight|bias)$", rf"\1.{3 * i}.\2") for i in (0, 1, 2)),
]
CONDITIONAL: Rules = [
    *(
        (
            rf"^(model\.decoder.*)\.({before}_{short}|{now}\.{long})_proj\.",
            rf"\1.{attention}.{ours}.",
        )
        for before, now, attention in (
            ("sa", "self_attn", "self_attention"),
            ("ca", "encoder_attn", "cross_attention"),
        )
        for short, long, ours in (
            ("qcontent", "q_content", "query_content"),
            ("qpos", "q_pos", "query_position"),
            ("kcontent", "k_content", "key_content"),
            ("kpos", "k_pos", "key_position"),
            ("v", "v", "value"),
            ("qpos_sine", "q_pos_sine", "query_target"),
        )
    ),
    (r"^model\.decoder\.query_scale\.", r"decoder.scale."),
    (r"^model\.decoder\.ref_point_head\.", r"decoder.position.anchor."),
    *DETR,
]
DAB: Rules = [
    *(
        (rf"\.{block}_attn\.{block}_attn_{theirs}_proj\.", f".{block}_attention.{ours}.")
        for block in ("self", "cross")
        for theirs, ours in (
            ("query_content", "query_content"),
            ("query_pos", "query_position"),
            ("key_content", "key_content"),
            ("key_pos", "key_position"),
            ("value", "value"),
            ("query_pos_sine", "query_target"),
        )
    ),
    (r"\.(self|cross)_attn\.(self|cross)_attn\.output_proj\.", r".\1_attention.output."),
    (r"\.self_attn\.self_attn_layer_norm\.", r".norm1."),
    (r"\.cross_attn\.cross_attn_layer_norm\.", r".norm2."),
    (r"\.mlp\.final_layer_norm\.", r".final_layer_norm."),
    (r"(\.mlp)?\.activation_fn\.", r".feed_forward.1."),
    (r"^model\.query_refpoint_embeddings\.", r"queries.reference."),
    (r"^model\.(en|de)coder\.query_scale\.", r"\1coder.scale."),
    (r"^model\.decoder\.ref_point_head\.", r"decoder.position.project."),
    (r"^model\.decoder\.ref_anchor_head\.", r"decoder.position.size."),
    (r"^model\.decoder\.bbox_embed\.", r"bbox_predictor."),  # the same under a second name
    *DETR,
]


def hf_detr_to_samdetr(state: Mapping[str, Tensor]) -> StateDict:
    """Weights of a DetrForObjectDetection for the model of a `detr_softmax` config.

    Args:
        state: names and tensors of the package.

    Returns:
        Names and tensors of this one.

    Raises:
        ConversionError: if the weights are no such model's, as in the functions below.
    """
    converted = _converted(state, DETR, "a DETR", "model.query_position_embeddings.weight")
    head = {k: v for k, v in converted.items() if k.startswith("decoder.heads.0.classes.")}
    return converted | split_classes(head)


def hf_conditional_to_samdetr(state: Mapping[str, Tensor]) -> StateDict:
    """Weights of a ConditionalDetrForObjectDetection for the model of a `conditional_detr` config.

    Args, returns and raises: as `hf_detr_to_samdetr`.
    """
    needed = "model.decoder.ref_point_head.layers.0.weight"
    return _converted(state, CONDITIONAL, "a Conditional DETR", needed)


def hf_dab_to_samdetr(state: Mapping[str, Tensor]) -> StateDict:
    """Weights of a DabDetrForObjectDetection for the model of a `dab_detr` config.

    Args, returns and raises: as `hf_detr_to_samdetr`.
    """
    return _converted(state, DAB, "a DAB-DETR", "model.query_refpoint_embeddings.weight")


def _converted(state: Mapping[str, Tensor], rules: Rules, model: str, needed: str) -> StateDict:
    if needed not in state:
        raise ConversionError(f"not {model} of transformers: {needed} is missing")
    renamed = {rename(k, rules): v for k, v in state.items() if "num_batches_tracked" not in k}
    strangers = [name for name in renamed if not name.startswith(PARTS)]
    if strangers:
        raise ConversionError(f"{model} with parts that are not here: {listed(strangers)}")
    return joined_projections(renamed)


def joined_projections(state: StateDict) -> StateDict:
    """The same with `in_proj.q.*`, `in_proj.k.*` and `in_proj.v.*` as one `in_proj.*`."""
    pattern = re.compile(r"(.*\.in_proj)\.[qkv]\.(weight|bias)")
    found = {name: pattern.fullmatch(name) for name in state}
    joined = {name: tensor for name, tensor in state.items() if not found[name]}
    for prefix, kind in {match.groups() for match in found.values() if match}:
        parts = [state[f"{prefix}.{part}.{kind}"] for part in "qkv"]
        joined[f"{prefix}.{kind}"] = torch.cat(parts)
    return joined


def read_pretrained(path: str | Path, model_type: str) -> StateDict:
    """The weights in a folder or file of `save_pretrained`.

    Args:
        path: a folder with `config.json` and `model.safetensors` or `pytorch_model.bin`, or one
            of the latter two.
        model_type: what `config.json` must say; a lone file is not checked.

    Raises:
        FileNotFoundError: if there is no such file.
        ConversionError: if it holds something else.
        ImportError: if it is a .safetensors file and that package is missing.
    """
    check_model_type(Path(path), model_type)
    return read_state_dict(weights_file(Path(path)))


def check_model_type(path: Path, expected: str) -> None:
    """Look into the `config.json` of a folder; a lone file has none.

    Raises:
        FileNotFoundError: if it is not there.
        ConversionError: if it names another type of model.
    """
    if path.is_dir():
        found = _model_type(path / "config.json")
        if found != expected:
            raise ConversionError(f"{path} holds a model of type {found!r}, expected {expected!r}")


def weights_file(path: Path) -> Path:
    """The file itself, or that of a folder.

    Raises:
        FileNotFoundError: if there is no such file.
    """
    if not path.is_dir():
        return path
    files = [path / name for name in WEIGHTS if (path / name).is_file()]
    if not files:
        raise FileNotFoundError(f"{path} has no {' or '.join(WEIGHTS)}")
    return files[0]


def _model_type(config: Path) -> str | None:
    try:
        return json.loads(config.read_text()).get("model_type")
    except (AttributeError, ValueError) as error:  # no object, no JSON, no text
        raise ConversionError(f"{config} cannot be read as the configuration of a model") from error
