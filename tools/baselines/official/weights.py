"""The reference path with the sizes and weights of one of this project's models."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from samdetr.convert import OFFICIAL, rename
from samdetr.modeling import SAMDETR

from .model import OfficialSAMDETR, Sizes

ENCODER = "transformer.encoder.layers.0"
DECODER = "transformer.decoder.layers.0"
ENCODER_LAYER = r"encoder\.layers\.\d+\.norm1\.weight"  # our names, one for each layer


def official(model: SAMDETR) -> OfficialSAMDETR:
    """A model that computes what another does, as the authors' code would.

    Args:
        model: a `SAMDETR` of a `sam_detr_*` or `sam_detr_pp_*` config of any size, without
            dropout and denoising. Its weights are copied, and so are its device, its mode and what
            it trains.

    Raises:
        ValueError: if the official model has other parameters than the model.
    """
    weights = model.state_dict()
    twin = OfficialSAMDETR(model, sizes_of(model))
    names = list(twin.state_dict())
    left = weights.keys() - {x for name in names for x in ours(name, weights)}
    if left:
        raise ValueError(f"model has weights that no official SAM-DETR has: {sorted(left)}")
    twin.load_state_dict({name: tensor(name, weights) for name in names})
    trained = {name for name, x in model.named_parameters() if x.requires_grad}
    for name, parameter in twin.named_parameters():
        parameter.requires_grad_(not trained.isdisjoint(ours(name, weights)))
    return twin.to(model.pixel_mean.device).train(model.training)


def sizes_of(model: SAMDETR) -> Sizes:
    """The sizes that the official model needs, mostly read off the weights."""
    weights = model.state_dict()

    def rows(name: str) -> int:
        return len(tensor(name + ".weight", weights))

    dim, levels = rows(f"{ENCODER}.norm1"), len(model.neck.in_channels)
    heads = rows(f"{DECODER}.attn1") // dim
    offsets = f"{ENCODER}.self_attn.sampling_offsets"
    deformable = bool(ours(offsets + ".weight", weights))
    point1, point2 = f"{DECODER}.point1", f"{DECODER}.point2"
    return Sizes(
        features={f"layer{int(k[-1]) - 1}": v for k, v in model.neck.in_channels.items()},
        dim=dim,
        heads=heads,
        norm=bool(ours("input_proj.0.1.weight", weights)),
        sampled=rows(offsets) // (2 * heads * levels) if deformable else 0,
        encoder_layers=len([x for x in weights if re.fullmatch(ENCODER_LAYER, x)]),
        encoder_hidden=rows(f"{ENCODER}.linear1"),
        decoder_hidden=rows(f"{DECODER}.linear1"),
        reduced=rows(f"{point1}.0"),
        point_hidden=(rows(f"{point2}.0"), rows(f"{point2}.2"), rows(f"{point2}.4")),
        smca=rows(f"{point2}.6") == 4 * heads,
        levels=model.decoder.levels,
        num_queries=model.num_queries,
        num_classes=model.num_classes,
    )


def tensor(name: str, weights: Mapping[str, Tensor]) -> Tensor:
    """The tensor of an official name, made of one or two of ours; ValueError without any."""
    found = ours(name, weights)
    if not found:
        raise ValueError(f"model is no SAM-DETR: it has nothing that would be its {name}")
    return torch.cat([weights[x] for x in found])


def ours(name: str, weights: Mapping[str, Tensor]) -> list[str]:
    """Our names, of those that there are, for an official one."""
    first = name.removeprefix("transformer.decoder.") if ".bbox_embed." in name else name
    new = rename(first, OFFICIAL)
    # Keypoints and SMCA's scales are rows of one official matrix.
    scale = new.replace("aligner.resampler.keypoints", "cross_attention.prior.scale")
    return [x for x in dict.fromkeys([new, scale]) if x in weights]
