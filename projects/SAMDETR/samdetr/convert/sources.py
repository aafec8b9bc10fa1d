"""The kinds of weights that are known, told apart by their names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from torch import Tensor

from .detr import detr_to_baseline, detr_to_softmax
from .hf import hf_conditional_to_samdetr, hf_dab_to_samdetr, hf_detr_to_samdetr
from .hf_deformable import hf_deformable_to_samdetr
from .official import official_to_samdetr
from .resnet import torchvision_to_detectron2
from .rules import ConversionError, StateDict, listed

DETR_DECODER = r"transformer\.decoder\.layers\.0\."
HF_DECODER = r"model\.decoder\.layers\.0\."


class Source(NamedTuple):
    """A kind of weights to convert from.

    Fields:
        what: the model, in words.
        evidence: patterns; for each there is a name that starts with a match.
        convert: from its weights to ours.
        remark: what else there is to know, for the help.
        model_type: what `config.json` says in a folder of the package transformers.
        author: whose weights they are, if not those of this package.
        prefixless: if the names lack the part of the model they belong to.
    """

    what: str
    evidence: tuple[str, ...]
    convert: Callable[[Mapping[str, Tensor]], StateDict]
    remark: str = ""
    model_type: str = ""
    author: str = ""
    prefixless: bool = False

    def fits(self, weights: Mapping[str, Tensor]) -> bool:
        """If weights may be of this kind."""
        return _shows(weights, self.evidence)


def detr(remark: str, part: str, convert: Callable[[Mapping[str, Tensor]], StateDict]) -> Source:
    """An original DETR, of which a part is needed."""
    evidence = (DETR_DECODER + r"multihead_attn\.", part)
    return Source("an original DETR", evidence, convert, remark)


def pretrained(
    what: str,
    model_type: str,
    evidence: str,
    convert: Callable[[Mapping[str, Tensor]], StateDict],
) -> Source:
    """A model of the package transformers."""
    what, remark = f"a {what} of transformers", "the folder it was saved in, or its file"
    return Source(what, (evidence,), convert, remark, model_type)


def as_they_are(weights: Mapping[str, Tensor]) -> StateDict:
    """Weights that have our names or Detectron2's.

    Raises:
        ConversionError: if they have others.
    """
    if not SOURCES["ours"].fits(weights):
        raise ConversionError(f"not one of ours: its weights are {listed(list(weights))}")
    return dict(weights)


SOURCES = {  # by the tool's names; the first that fits a file is what the file is
    "official": Source("an official SAM-DETR", (DETR_DECODER + r"attn1\.",), official_to_samdetr),
    "detr": detr("for a detr_* config, with a new class head", r"bbox_embed\.", detr_to_baseline),
    "detr-softmax": detr("for a detr_softmax_* config, whole", r"class_embed\.", detr_to_softmax),
    "torchvision": Source(
        "a ResNet of torchvision",
        (r"conv1\.", r"layer1\.0\.conv1\."),
        torchvision_to_detectron2,
        "a backbone for any Detectron2 model",
        author="torchvision",
        prefixless=True,
    ),
    "hf-detr": pretrained(
        "DETR", "detr", HF_DECODER + r"encoder_attn\.q_proj\.", hf_detr_to_samdetr
    ),
    "hf-dab": pretrained(
        "DAB-DETR", "dab-detr", r"model\.query_refpoint_embeddings\.", hf_dab_to_samdetr
    ),
    "hf-conditional": pretrained(
        "Conditional DETR",
        "conditional_detr",
        r"model\.decoder\.ref_point_head\.",
        hf_conditional_to_samdetr,
    ),
    "hf-deformable": pretrained(
        "one-stage Deformable DETR",
        "deformable_detr",
        r"model\.reference_points\.",
        hf_deformable_to_samdetr,
    ),
    "ours": Source(
        "one of ours",
        (r"backbone\.(?!0\.)|stem\.conv1\.",),
        as_they_are,
        "or any other under Detectron2's names; weights alone",
    ),
}
STRANGERS = (  # known, and not converted
    ("a Deformable DETR of its authors", DETR_DECODER + r"cross_attn\.sampling_offsets\."),
    ("a Conditional DETR of its authors or one of its kin", DETR_DECODER + r"ca_qcontent_proj\."),
    ("a two-stage Deformable DETR of transformers", r"model\.pos_trans\."),
    ("a Caffe2 model, which Detectron2's checkpointer reads as it is", r"conv1_w$"),
)


def recognise(weights: Mapping[str, Tensor]) -> str:
    """The name in `SOURCES` of what weights are.

    Raises:
        ConversionError: if they are something else; it says what, as far as that is known.
    """
    name, what = _identify(weights)
    if not name:
        what = what or f"nothing that is known here: its weights are {listed(list(weights))}"
        raise ConversionError(f"it is {what}")
    return name


def converted(weights: Mapping[str, Tensor], asked: str) -> StateDict:
    """Convert weights to our names.

    Args:
        weights: names and tensors.
        asked: what they are, a name in `SOURCES`.

    Raises:
        ConversionError: if they are something else.
    """
    source = SOURCES[asked]
    name, what = _identify(weights)
    if what and not source.fits(weights):
        remedy = f": {name!r} converts it" if name else ""
        raise ConversionError(f"it is {what}, and {source.what} was asked for{remedy}")
    return source.convert(weights)


def _identify(weights: Mapping[str, Tensor]) -> tuple[str, str]:
    """Name in `SOURCES`, if any, and words, if anything is known."""
    for name, source in SOURCES.items():
        if source.fits(weights):
            return name, source.what
    return "", next((what for what, sign in STRANGERS if _shows(weights, (sign,))), "")


def _shows(weights: Mapping[str, Tensor], evidence: tuple[str, ...]) -> bool:
    return all(any(re.match(pattern, name) for name in weights) for pattern in evidence)
