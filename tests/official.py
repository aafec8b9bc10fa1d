"""Weights, inputs and expected numbers of the official model (fixtures/official/README.md)."""

from __future__ import annotations

import json
import math
import re
import zlib
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn
from torch.testing import assert_close

from samdetr.modeling.ops.boxes import corners

FOLDER = Path(__file__).parent / "fixtures" / "official"

ROOT = Path(__file__).parents[1]
CONFIGS = {
    "r50": "sam_detr_r50_12ep",
    "r50_smca": "sam_detr_r50_smca_12ep",
    "r50_e50": "sam_detr_r50_50ep",
    "r50_dc5": "sam_detr_r50_dc5_12ep",
    "r50_dc5_smca": "sam_detr_r50_dc5_smca_12ep",
    "r50_ms": "sam_detr_pp_r50_12ep",
    "r50_ms_smca": "sam_detr_pp_r50_smca_12ep",
}
GAINS = {
    "encoder": {
        "self_attn.in_proj_weight": 2,
        "self_attn.out_proj.weight": 0.25,
        "self_attn.output_proj.weight": 0.25,
        "linear2.weight": 0.25,
    },
    "decoder": {
        **{f"point{x}.weight": math.sqrt(2) for x in ("1.0", "2.0", "2.2", "2.4")},
        "point2.6.weight": 2,
        **{f"ca_{x}content_proj.weight": 4 for x in "qk"},
        **{f"ca_{x}pos_sine_proj.layers.1.weight": 4 for x in "qk"},
        "ca_v_proj.weight": 2,
        "cross_attn.out_proj.weight": 2,
        **{f"sa_{x}pos_proj.weight": 3 for x in "qk"},
        "sa_v_proj.weight": 4,
        "linear2.weight": 0.5,
    },
}


@lru_cache
def expected(variant: str) -> dict:
    """The variant's .json, and its .npz under the key `arrays`."""
    content = json.loads((FOLDER / f"{variant}.json").read_text())
    with np.load(FOLDER / f"{variant}.npz") as arrays:
        content["arrays"] = {k: torch.from_numpy(v) for k, v in arrays.items()}
    return content


def canonical(name: str) -> str:
    return name.removeprefix("transformer.decoder.") if ".decoder.bbox_embed." in name else name


def noise(name: str, shape: list[int]) -> np.ndarray:
    return np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)


def gain(name: str) -> float:
    if name.startswith("backbone."):
        return math.sqrt(2)
    if name.startswith("class_embed."):
        return 1.5
    match = re.fullmatch(r"transformer\.(encoder|decoder)\.layers\.\d+\.(.*)", name)
    return GAINS[match[1]].get(match[2], 1) if match else 1


def weight(name: str, shape: list[int]) -> np.ndarray:
    """One tensor of the recipe, by the first matching rule."""
    n = noise(name, shape)
    one_dimensional = {
        "running_var": 1 + 0.1 * abs(n),
        "running_mean": 0.05 * n,
        "point2.6.bias": 0.3 * n,
        "bn3.weight": 0.5 * (1 + 0.05 * n),
    }
    if name in ("query_embed.weight", "transformer.level_embed"):
        return n
    if name.endswith("sampling_offsets.bias"):
        return 2 * n
    if name.startswith("class_embed.") and name.endswith(".bias"):
        return -4.5 + 0.2 * n
    if len(shape) >= 2:
        return gain(name) * n / math.sqrt(np.prod(shape[1:]))
    for suffix, value in one_dimensional.items():
        if name.endswith(suffix):
            return value
    return 1 + 0.05 * n if name.endswith(".weight") else 0.02 * n


@cache
def tensor(name: str, shape: tuple[int, ...]) -> Tensor:
    """A tensor of the recipe; variants share most of them."""
    return torch.from_numpy(np.float32(weight(name, list(shape))))


@cache
def direction(name: str, shape: tuple[int, ...]) -> Tensor:
    """What `grad_dot` multiplies a gradient by."""
    return torch.from_numpy(np.float32(noise(name + "#G", list(shape))))


def state_dict(variant: str) -> dict[str, Tensor]:
    """The official state dict of a variant, under official names."""
    return {
        name: tensor(canonical(name), tuple(shape))
        for name, shape in expected(variant)["state_dict"]
    }


def batch(target_set: str | None = None) -> list[dict]:
    """The two input images, with the ground truth of a target set."""
    sizes = json.loads((FOLDER / "inputs.json").read_text())["original_sizes_hw"]
    with np.load(FOLDER / "inputs.npz") as arrays:
        return [_input(arrays, i, sizes[i], target_set) for i in range(2)]


def _input(arrays, i: int, size: list[int], target_set: str | None) -> dict:
    image = torch.from_numpy(arrays[f"image_{i}"]).permute(2, 0, 1)
    entry = {"image": image, "height": size[0], "width": size[1]}
    if target_set:
        height, width = image.shape[1:]
        boxes = torch.from_numpy(arrays[f"target_{target_set}_{i}_boxes"]).view(-1, 4)
        entry["instances"] = Instances(
            (height, width),
            gt_boxes=Boxes(corners(boxes) * torch.tensor([width, height] * 2)),
            gt_classes=torch.from_numpy(arrays[f"target_{target_set}_{i}_labels"]),
        )
    return entry


class Tolerance(NamedTuple):
    logits: float
    boxes: float
    source: float
    score: float
    pixels: float


SINGLE = Tolerance(logits=1e-4, boxes=1e-5, source=5e-5, score=3e-5, pixels=0.01)
NO_NORM = Tolerance(logits=5e-4, boxes=5e-5, source=5e-4, score=1.5e-4, pixels=0.05)
MULTI = Tolerance(logits=1e-3, boxes=5e-5, source=5e-5, score=3e-4, pixels=0.05)


def tolerance(variant: str) -> Tolerance:
    return NO_NORM if variant == "r50_e50" else MULTI if "_ms" in variant else SINGLE


def build(config: str) -> nn.Module:
    """The model of a config with the official classes; its weights, not drawn, are to be loaded."""
    cfg = LazyConfig.load(str(ROOT / "configs" / "coco" / f"{config}.py"))
    cfg.model.num_classes = 91
    with pytest.MonkeyPatch.context() as patch:
        for name in ("uniform_", "normal_"):
            patch.setattr(Tensor, name, lambda x, *args, **kwargs: x)
        return instantiate(cfg.model)


def assert_near(actual: Tensor, wanted: Tensor, atol: float) -> None:
    assert_close(actual, wanted, rtol=0, atol=atol)
