"""Weights of the Deformable DETR in the package `transformers` under the names of this one."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from .hf import DETR, joined_projections
from .rules import ConversionError, Rules, StateDict, rename

DEFORMABLE: Rules = [
    (r"^model\.input_proj\.", r"neck.projections."),
    (r"^model\.level_embed$", r"neck.level_embedding.weight"),
    (r"^model\.reference_points\.", r"decoder.reference."),
    (r"^class_embed\.(\d+)\.", r"decoder.heads.\1.classes."),
    *(
        # With box refinement the decoder has them under a second name.
        (rf"^(model\.decoder\.)?bbox_embed\.(\d+)\.layers\.{i}\.", rf"decoder.heads.\2.boxes.{n}.")
        for i, n in ((0, 0), (1, 3), (2, 6))
    ),
    (r"\.sampling_offsets\.", r".offsets."),
    (r"\.attention_weights\.", r".weights."),
    (r"\.value_proj\.", r".value."),
    (r"\.output_proj\.", r".output."),
    *DETR,
]
QUERIES = "model.query_position_embeddings.weight"


def hf_deformable_to_samdetr(state: Mapping[str, Tensor]) -> StateDict:
    """Weights of a DeformableDetrForObjectDetection, with or without box refinement.

    Args:
        state: names and tensors of the package.

    Returns:
        Names and tensors for the model of a `deformable_detr` config, with box refinement for that
        of a `deformable_detr_refine` config.

    Raises:
        ConversionError: if the weights are no such model's, or those of a two-stage one.
    """
    for name in (QUERIES, "model.reference_points.weight"):
        if name not in state:
            raise ConversionError(
                f"not a one-stage Deformable DETR of transformers: {name} is missing"
            )
    converted = {
        rename(name, DEFORMABLE): tensor
        for name, tensor in state.items()
        if name != QUERIES and not name.endswith("num_batches_tracked")
    }
    position, content = state[QUERIES].chunk(2, dim=1)
    converted["decoder.position.embedding.weight"] = position
    converted["queries.content.weight"] = content
    return without_copies(joined_projections(converted))


def without_copies(state: StateDict) -> StateDict:
    """The same with one head where all are alike: without box refinement the layers share it."""
    prefix = "decoder.heads.0."
    first = {name.removeprefix(prefix): x for name, x in state.items() if name.startswith(prefix)}
    heads = {name: name.split(".", 3)[3] for name in state if name.startswith("decoder.heads.")}
    if any(not state[name].equal(first[part]) for name, part in heads.items()):
        return state
    return {k: v for k, v in state.items() if k not in heads or k.startswith(prefix)}
