"""Parameters and multiply-adds of a detector, part by part.

Paper: tables 1 and 2. Operators are counted by torch's `FlopCounterMode`, with formulas added for
those it has none for. As in the paper and in fvcore a multiply-add is one operation, and matrix
products, convolutions, bilinear samples, weighted sums and normalisations count; batch norm (which
is folded), softmax, activations and additions do not.

Sizes: (height, width) of images in pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import torch
import torchvision  # noqa: F401  (registers torch.ops.torchvision)
from detectron2.config import instantiate
from omegaconf import DictConfig
from torch import nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from samdetr.errors import SamdetrError
from samdetr.model_zoo import markdown_table
from samdetr.modeling import SAMDETR
from samdetr.modeling.layers import meta_device
from samdetr.modeling.ops import backends

from .parts import measure_parts, part_of

# Most images of COCO have 640 x 480 or 640 x 427 pixels; these are the sizes `dataloader.test`
# resizes them to. The paper's figures are means over the first 100 images of val2017.
COCO_SIZES = ((800, 1067), (800, 1199))
MIN_SIZE = 32  # the largest stride

# FlopCounterMode counts two operations per multiply-add; `count_parts` halves its total.
MULTIPLY_ADD = 2
NORMALISATION = 5 * MULTIPLY_ADD  # per number, as in fvcore
BILINEAR = 4 * MULTIPLY_ADD  # per sample, as in fvcore
# An adaptive RoIAlign takes as many samples per bin as the bin has cells, which depends on the
# boxes. It counts as the 2 x 2 samples that Mask R-CNN fixed it to.
ADAPTIVE_SAMPLES = 2

Shape = torch.Size


def attention_flops(query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    """Both matrix products of attention."""
    return MULTIPLY_ADD * prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def normalisation_flops(x: Shape, *_: Any, **__: Any) -> int:
    """Layer and group normalisation."""
    return NORMALISATION * prod(x)


def grid_sample_flops(x: Shape, *_: Any, out_shape: Shape, **__: Any) -> int:
    """Bilinear samples of grid_sample."""
    return BILINEAR * prod(out_shape)


def roi_align_flops(
    x: Shape, boxes: Shape, scale: float, rows: int, columns: int, samples: int, *_: Any, **__: Any
) -> int:
    """Bilinear samples of torchvision's RoIAlign, `samples` along each side of a bin."""
    count = boxes[0] * x[1] * rows * columns
    return BILINEAR * count * (samples if samples > 0 else ADAPTIVE_SAMPLES) ** 2


def accumulation_flops(x: Shape, *_: Any, **__: Any) -> int:
    """Products added to a sum, or a sum of products: the multiply-adds of a weighted sum."""
    return MULTIPLY_ADD * prod(x)


aten = torch.ops.aten
FORMULAS: dict[Any, Callable[..., int]] = {
    aten._scaled_dot_product_flash_attention_for_cpu: attention_flops,
    aten.native_layer_norm: normalisation_flops,
    aten.native_group_norm: normalisation_flops,
    aten.grid_sampler_2d: grid_sample_flops,
    aten.addcmul: accumulation_flops,
    aten.sum: accumulation_flops,
    aten.mean: accumulation_flops,
    torch.ops.torchvision.roi_align: roi_align_flops,
}


class Part(NamedTuple):
    """Cost of a part of a model."""

    parameters: int  # trainable
    flops: float  # multiply-adds


@dataclass(frozen=True)
class Analysis:
    """Cost of a model by part."""

    parts: dict[str, Part]

    @property
    def total(self) -> Part:
        """Cost of the whole model."""
        return Part(*map(sum, zip(*self.parts.values())))


def build(config: DictConfig) -> nn.Module:
    """Build the untrained model described by `model` of a config, in evaluation mode.

    A SAMDETR is built on the meta device, which costs no memory and no arithmetic. Other detectors
    run on the CPU, because the number of their proposals depends on values.
    """
    with meta_device():
        model: nn.Module = instantiate(config).to("meta")
    if not isinstance(model, SAMDETR):
        model = instantiate(config)
        for parameter in model.parameters():  # proposals are then the anchors: as many as possible
            nn.init.zeros_(parameter)
    return model.eval()


def count_parts(model: nn.Module, *inputs: Any) -> dict[str, float]:
    """Count the multiply-adds of `model(*inputs)` by part.

    Kernels are replaced by their plain twins, whose operators the formulas know.
    """
    counter = FlopCounterMode(display=False, custom_mapping=FORMULAS)
    plain = backends(attend="plain", deformable="grid", roi_align="operator")
    # Detached weights in place of no_grad, under which FlopCounterMode's module tracker fails on a
    # module that returns a parameter.
    weights = {name: x.detach() for name, x in model.named_parameters()}
    with plain, counter:
        _, flops = measure_parts(
            model, counter.get_total_flops, lambda: functional_call(model, weights, inputs)
        )
    return {name: x / MULTIPLY_ADD for name, x in flops.items()}


def analyze(model: nn.Module, sizes: Sequence[tuple[int, int]] = COCO_SIZES) -> Analysis:
    """Count the parameters of a detector and the multiply-adds of its inference.

    Args:
        model: in evaluation mode.
        sizes: of the images, which are run one by one; the result is the mean over them.

    Raises:
        SamdetrError: if `sizes` is empty or has a side shorter than 32 pixels.
    """
    if not sizes or min(map(min, sizes)) < MIN_SIZE:
        raise SamdetrError(
            f"sizes must be of one image or more, at least {MIN_SIZE} pixels high and wide, "
            f"got {[tuple(x) for x in sizes]}"
        )
    device = next(model.parameters()).device
    parts = {part_of(name): [0, 0.0] for name, _ in model.named_modules()}
    for name, parameter in model.named_parameters():
        parts[part_of(name.rpartition(".")[0])][0] += parameter.numel() * parameter.requires_grad
    for size in sizes:
        image = 255 * torch.rand(len(getattr(model, "pixel_mean", "RGB")), *size, device=device)
        for name, flops in count_parts(model, [{"image": image}]).items():
            parts[name][1] += flops / len(sizes)
    return Analysis({name: Part(int(x), y) for name, (x, y) in parts.items() if x or y})


def part_table(analysis: Analysis) -> str:
    """Format the parts of a model as a markdown table."""
    rows = [
        (name, f"{part.parameters:,}", f"{part.flops / 1e9:.2f}")
        for name, part in [*analysis.parts.items(), ("total", analysis.total)]
    ]
    return markdown_table(("part", "parameters", "GFLOPs"), rows)
