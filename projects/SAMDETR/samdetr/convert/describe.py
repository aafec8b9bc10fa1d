"""What a model is, from the names and shapes of its weights."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from torch import Tensor

# Some name of each architecture starts with a match; the first that fits counts.
ARCHITECTURES = (
    (r"decoder\.layers\.0\.aligner\.offset\.", "SMCA-DETR"),
    (r"decoder\.layers\.0\.aligner\.", "SAM-DETR"),
    (r"decoder\.reference\.", "Deformable DETR"),
    (r"decoder\.position\.size\.", "DAB-DETR"),
    (r"decoder\.scale\.", "Conditional DETR"),
    (r"decoder\.heads\.0\.nothing\.", "DETR with a softmax head"),
    (r"decoder\.layers\.0\.cross_attention\.", "DETR"),
    (r"(proposal_generator|roi_heads|head)\.", "a detector of Detectron2"),
)
RESNETS: dict[
    tuple[int, ...], tuple[str, str]
] = {  # residual blocks of the four stages; with blocks of three convolutions and of two
    (3, 4, 6, 3): ("ResNet-50", "ResNet-34"),
    (2, 2, 2, 2): ("ResNet-26", "ResNet-18"),
    (3, 4, 23, 3): ("ResNet-101", ""),
    (3, 8, 36, 3): ("ResNet-152", ""),
}
COUNTED = {
    "levels": r"neck\.projections\.(\d+)\.",
    "encoder": r"encoder\.layers\.(\d+)\.",
    "decoder": r"decoder\.layers\.(\d+)\.",
}
ROWS = {  # of the first of these that is there
    "queries": ("queries.reference.weight", "decoder.position.embedding.weight"),
    "classes": ("decoder.heads.0.classes.weight",),
}


def describe(weights: Mapping[str, Tensor]) -> str:
    """The model in words, such as "SAM-DETR w/ SMCA (ResNet-50, width 256, ...)".

    DC5 is not among them: dilation changes no weight.

    Args:
        weights: names and shapes of a model of this package, or of one of Detectron2.
    """
    details = [x for x in (_resnet(weights), *_sizes(weights)) if x]
    return _architecture(weights) + (f" ({', '.join(details)})" if details else "")


def _architecture(weights: Mapping[str, Tensor]) -> str:
    name = next((x for start, x in ARCHITECTURES if _has(weights, start)), "a backbone")
    if name == "SAM-DETR":
        name += "++" if "neck.level_embedding.weight" in weights else ""
        smca = _has(weights, r"decoder\.layers\.0\.cross_attention\.prior\.")
        name += " w/ SMCA" if smca else ""
    return name + (" with denoising queries" if _has(weights, r"denoising\.") else "")


def _resnet(weights: Mapping[str, Tensor]) -> str:
    prefix = r"(?:backbone\.)?(?:bottom_up\.)?"
    blocks = [_count(weights, rf"{prefix}res{i}\.(\d+)\.") for i in (2, 3, 4, 5)]
    three, two = RESNETS.get(tuple(blocks), ("", ""))
    return three if _has(weights, rf"{prefix}res2\.0\.conv3\.") else two


def _sizes(weights: Mapping[str, Tensor]) -> Iterator[str]:
    if "neck.projections.0.0.weight" in weights:
        yield f"width {len(weights['neck.projections.0.0.weight'])}"
    for what, pattern in COUNTED.items():
        if count := _count(weights, pattern):
            yield f"{what} {count}"
    for what, names in ROWS.items():
        yield from [f"{what} {len(weights[x])}" for x in names if x in weights][:1]
    if "neck.projections.0.1.weight" in weights:
        yield "norm in the neck"


def _has(weights: Mapping[str, Tensor], start: str) -> bool:
    return any(re.match(start, name) for name in weights)


def _count(weights: Mapping[str, Tensor], pattern: str) -> int:
    return len({match[1] for name in weights if (match := re.match(pattern, name))})
