"""Files of weights: recognition and description by names and shapes, and writing.

Written are torch's `.pth`, Detectron2's `.pkl` of NumPy arrays, and `.safetensors`; the same
formats are read by `samdetr.checkpoint.load_file`.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, NamedTuple

import torch
from torch import Tensor

from ..checkpoint import HEURISTICS, replacing
from . import hf, official
from .rules import ConversionError, StateDict, listed

# Names that identify the weights of each known code base, as regular expressions.
DETR_DECODER = r"transformer\.decoder\.layers\.0\."
DETR_ATTENTION = DETR_DECODER + r"multihead_attn\."


class Source(NamedTuple):
    """A kind of weights that can be converted."""

    what: str  # the model in words, with its article
    evidence: tuple[str, ...]  # regular expressions; each must match the start of some name
    convert: Callable[[Mapping[str, Tensor]], StateDict]  # to our names
    remark: str = ""
    author: str = "samdetr"
    prefixless: bool = False  # whether the names lack the prefix `backbone.`

    def fits(self, weights: Mapping[str, Tensor]) -> bool:
        """True if the names of the weights contain all evidence."""
        return all(_has(weights, pattern) for pattern in self.evidence)


def _of_transformers(
    what: str, part: str, convert: Callable[[Mapping[str, Tensor]], StateDict]
) -> Source:
    help = "the folder it was saved in, or its file"
    return Source(f"a {what} of transformers", (rf"model\.{part}\.",), convert, help)


SOURCES = {  # a file is of the first kind that fits
    "official": Source(
        "an official SAM-DETR", (DETR_DECODER + r"attn1\.",), official.official_to_samdetr
    ),
    "detr": Source(
        "an original DETR",
        (DETR_ATTENTION, r"bbox_embed\."),
        official.detr_to_baseline,
        "for a detr_* config, with a new class head",
    ),
    "detr-softmax": Source(
        "an original DETR",
        (DETR_ATTENTION, r"class_embed\."),
        official.detr_to_softmax,
        "for a detr_softmax_* config, complete",
    ),
    "torchvision": Source(
        "a ResNet of torchvision",
        (r"conv1\.", r"layer1\.0\.conv1\."),
        official.torchvision_to_detectron2,
        "a backbone for any Detectron2 model",
        author="torchvision",
        prefixless=True,
    ),
    "hf-detr": _of_transformers(
        "DETR", r"decoder\.layers\.0\.encoder_attn\.q_proj", hf.hf_detr_to_samdetr
    ),
    "hf-dab": _of_transformers("DAB-DETR", "query_refpoint_embeddings", hf.hf_dab_to_samdetr),
    "hf-conditional": _of_transformers(
        "Conditional DETR", r"decoder\.ref_point_head", hf.hf_conditional_to_samdetr
    ),
    "hf-deformable": _of_transformers(
        "one-stage Deformable DETR", "reference_points", hf.hf_deformable_to_samdetr
    ),
    "ours": Source(
        "one of ours",
        (r"backbone\.(?!0\.)|stem\.conv1\.",),
        dict,
        "or any other under Detectron2's names; weights alone",
    ),
}
UNSUPPORTED = {  # recognised, but not converted
    DETR_DECODER + r"cross_attn\.sampling_offsets\.": "a Deformable DETR of its authors",
    DETR_DECODER + r"ca_qcontent_proj\.": "a Conditional DETR of its authors or a descendant",
    r"model\.pos_trans\.": "a two-stage Deformable DETR of transformers",
    r"conv1_w$": "a Caffe2 model, which Detectron2's checkpointer reads directly",
}

# The first pattern that matches the start of a name, in this order, tells the architecture.
ARCHITECTURES = {
    r"decoder\.layers\.0\.aligner\.offset\.": "SMCA-DETR",
    r"decoder\.layers\.0\.aligner\.": "SAM-DETR",
    r"decoder\.reference\.": "Deformable DETR",
    r"decoder\.position\.size\.": "DAB-DETR",
    r"decoder\.scale\.": "Conditional DETR",
    r"decoder\.heads\.0\.nothing\.": "DETR with a softmax head",
    r"decoder\.layers\.0\.cross_attention\.": "DETR",
    r"(proposal_generator|roi_heads|head)\.": "a detector of Detectron2",
    "": "a backbone",
}
# By whether blocks have a third convolution, and the number of blocks of each stage.
RESNETS: dict[tuple[int, ...], str] = {
    (True, 3, 4, 6, 3): "ResNet-50",
    (True, 3, 4, 23, 3): "ResNet-101",
    (True, 3, 8, 36, 3): "ResNet-152",
    (False, 2, 2, 2, 2): "ResNet-18",
    (False, 3, 4, 6, 3): "ResNet-34",
}
RESNET = r"(?:backbone\.)?(?:bottom_up\.)?res"
COUNTED = {
    "levels": r"neck\.projections\.(\d+)\.",
    "encoder": r"encoder\.layers\.(\d+)\.",
    "decoder": r"decoder\.layers\.(\d+)\.",
}
ROWS = {  # parameters with a row for each
    "queries.reference.weight": "queries",
    "decoder.position.embedding.weight": "queries",
    "decoder.heads.0.classes.weight": "classes",
}


def recognise(weights: Mapping[str, Tensor]) -> str:
    """Return the key in `SOURCES` for weights; raise ConversionError if they are of none."""
    for name, source in SOURCES.items():
        if source.fits(weights):
            return name
    found = next((x for pattern, x in UNSUPPORTED.items() if _has(weights, pattern)), None)
    raise ConversionError(
        f"it is {found}, which is not supported"
        if found
        else f"it is of no known kind; its weights are {listed(list(weights))}"
    )


def converted(weights: Mapping[str, Tensor], name: str) -> StateDict:
    """Convert weights of a kind, a key of `SOURCES`, to our names.

    Raises:
        ConversionError: if they are of another kind; it names the kind and its converter.
    """
    source = SOURCES[name]
    if not source.fits(weights):
        found = recognise(weights)
        raise ConversionError(
            f"it is {SOURCES[found].what}, not {source.what}: {found!r} converts it"
        )
    return source.convert(weights)


def describe(weights: Mapping[str, Tensor]) -> str:
    """Return the model in words, such as "SAM-DETR w/ SMCA (ResNet-50, width 256, ...)".

    The weights are of a model of this package or of Detectron2. DC5 changes none of them.
    """
    details = ", ".join(_details(weights))
    return _architecture(weights) + (f" ({details})" if details else "")


def _architecture(weights: Mapping[str, Tensor]) -> str:
    name = next(x for pattern, x in ARCHITECTURES.items() if _has(weights, pattern))
    if name == "SAM-DETR":
        name += "++" if "neck.level_embedding.weight" in weights else ""
        smca = _has(weights, r"decoder\.layers\.0\.cross_attention\.prior\.")
        name += " w/ SMCA" if smca else ""
    return name + (" with denoising queries" if _has(weights, r"denoising\.") else "")


def _details(weights: Mapping[str, Tensor]) -> Iterator[str]:
    blocks = [_count(weights, rf"{RESNET}{i}\.(\d+)\.") for i in (2, 3, 4, 5)]
    resnet = RESNETS.get((_has(weights, rf"{RESNET}2\.0\.conv3\."), *blocks))
    if resnet:
        yield resnet
    if "neck.projections.0.0.weight" in weights:
        yield f"width {len(weights['neck.projections.0.0.weight'])}"
    yield from (f"{x} {n}" for x, pattern in COUNTED.items() if (n := _count(weights, pattern)))
    yield from (f"{x} {len(weights[name])}" for name, x in ROWS.items() if name in weights)
    if "neck.projections.0.1.weight" in weights:
        yield "norm in the neck"


def _has(weights: Mapping[str, Tensor], start: str) -> bool:
    return any(re.match(start, name) for name in weights)


def _count(weights: Mapping[str, Tensor], pattern: str) -> int:
    return len({match[1] for name in weights if (match := re.match(pattern, name))})


def save_model(
    weights: Mapping[str, Tensor],
    path: str | Path,
    *,
    file_format: str = "",
    author: str = "samdetr",
    matching_heuristics: bool = False,
    description: str = "",
) -> None:
    """Write weights atomically.

    Args:
        file_format: a key of `FORMATS`; the suffix of `path` by default.
        author: `__author__` of the file.
        matching_heuristics: ask Detectron2 to match names by their suffixes, as a backbone without
            the prefix `backbone.` needs.
        description: description of the model.

    Raises:
        ConversionError: if there is no such format.
        OSError: if the file cannot be written; a previous one is then unchanged.
    """
    write = FORMATS[check_format(path, file_format)]
    extras = {"__author__": author, "description": description, HEURISTICS: matching_heuristics}
    with replacing(Path(path)) as file:
        write(dict(weights), file, {name: x for name, x in extras.items() if x})


def half_precision(weights: Mapping[str, Tensor]) -> StateDict:
    """Return floating-point weights as float16; a model that loads them stays in float32."""
    return {k: v.half() if v.is_floating_point() else v for k, v in weights.items()}


def check_format(path: str | Path, file_format: str = "") -> str:
    """Return the format of a file to write. Raises ConversionError without any."""
    file_format = file_format or Path(path).suffix.removeprefix(".")
    if file_format not in FORMATS:
        raise ConversionError(f"{path} must end in {', '.join('.' + x for x in FORMATS)}")
    return file_format


def _write_torch(weights: StateDict, file: IO[bytes], extras: dict) -> None:
    torch.save({"model": weights, **extras}, file)


def _write_pickle(weights: StateDict, file: IO[bytes], extras: dict) -> None:
    # NumPy has no bfloat16; float32 represents it exactly.
    exact = {k: v.float() if v.dtype is torch.bfloat16 else v for k, v in weights.items()}
    pickle.dump({"model": {k: v.numpy() for k, v in exact.items()}, **extras}, file)


def _write_safetensors(weights: StateDict, file: IO[bytes], extras: dict) -> None:
    from safetensors.torch import save  # an extra: pip install samdetr[convert]

    # The format refuses tensors that share memory.
    own = {k: v.clone(memory_format=torch.contiguous_format) for k, v in weights.items()}
    file.write(save(own, {"format": "pt", **{k: str(v) for k, v in extras.items()}}))


FORMATS: dict[str, Callable[[StateDict, IO[bytes], dict], None]] = {
    "pth": _write_torch,
    "pkl": _write_pickle,
    "safetensors": _write_safetensors,
}
