"""Parameters and floating-point operations of a model, part by part.

Paper: tables 1 and 2. As there and in fvcore one multiply-add is one operation, and only matrix
products, convolutions, sampling, weighted sums and normalisations count: no batch norm, which is
folded, and no softmax, activation or addition.

Sizes: of images, (height, width) in pixels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any, NamedTuple

import torch
from detectron2.config import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from samdetr.errors import SamdetrError
from samdetr.model_zoo import markdown_table
from samdetr.modeling import SAMDETR
from samdetr.modeling.ops import backends

# Most images of COCO have 640 x 480 or 640 x 427 pixels: this is what `dataloader.test` makes of
# them. The paper's figures are means over the first 100 images of val2017, as since DETR.
COCO_SIZES = ((800, 1067), (800, 1199))
MIN_SIZE = 32  # the largest stride

NORMALISATION = 5  # operations per number, as in fvcore
BILINEAR = 4  # multiply-adds of a sample, as in fvcore
# RoIAlign takes as many samples per bin as the bin has cells. How many that are depends on the
# boxes, so it counts as what Mask R-CNN fixed it to.
ADAPTIVE_SAMPLES = 2

EXPANDED = ("encoder", "decoder", "aligner")  # parts whose own parts are told apart
UNNAMED = ("layers",)  # containers that are no parts
OTHER = "other"

# Operators that are neither pointwise nor views and need no count: memory, indices, shapes, and
# those that fvcore and Detectron2 leave out.
IGNORED = {
    "aten._local_scalar_dense",
    "aten._prelu_kernel",
    "aten._safe_softmax",
    "aten._softmax",
    "aten._to_copy",
    "aten._unique2",
    "aten._unsafe_view",
    "aten.all",
    "aten.amax",
    "aten.arange",
    "aten.cat",
    "aten.constant_pad_nd",
    "aten.copy_",
    "aten.cumsum",
    "aten.empty",
    "aten.fill_",
    "aten.flip",
    "aten.floor_divide",
    "aten.full",
    "aten.gather",
    "aten.index",
    "aten.index_put_",
    "aten.index_select",
    "aten.masked_fill_",
    "aten.max",
    "aten.max_pool2d_with_indices",
    "aten.native_batch_norm",
    "aten.new_zeros",
    "aten.nonzero",
    "aten.ones",
    "aten.ones_like",
    "aten.rand",
    "aten.repeat",
    "aten.repeat_interleave",
    "aten.scalar_tensor",
    "aten.sort",
    "aten.stack",
    "aten.topk",
    "aten.unsqueeze_",
    "aten.upsample_nearest2d",
    "aten.zeros",
    "aten.zeros_like",
    "torchvision.nms",
}


def attention_flops(out: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any) -> int:
    """Both matrix products of attention."""
    return prod(query.shape[:-1]) * key.shape[-2] * (query.shape[-1] + value.shape[-1])


def normalisation_flops(out: Tensor, x: Tensor, *_: Any) -> int:
    """Of layer and group norm."""
    return NORMALISATION * x.numel()


def sampling_flops(out: Tensor, *_: Any) -> int:
    """Bilinear samples of grid_sample."""
    return BILINEAR * out.numel()


def addcmul_flops(out: Tensor, *_: Any) -> int:
    """A product added to a running sum, as in deformable attention."""
    return out.numel()


def roi_align_flops(
    out: Tensor,
    x: Tensor,
    boxes: Tensor,
    scale: float,
    rows: int,
    columns: int,
    samples: int,
    *_: Any,
) -> int:
    """Bilinear samples of torchvision's RoIAlign, `samples` along each side of a bin."""
    return BILINEAR * out.numel() * (samples if samples > 0 else ADAPTIVE_SAMPLES) ** 2


def sum_flops(out: Tensor, x: Tensor, *_: Any) -> int:
    """One per number added up: with the product before it, a multiply-add of a weighted sum."""
    return x.numel() if x.is_floating_point() else 0


# What torch has no formula for. A kernel that is not there in this torch is not called either.
FORMULAS: dict[str, Callable[..., int]] = {
    "aten._scaled_dot_product_flash_attention_for_cpu": attention_flops,
    "aten.native_layer_norm": normalisation_flops,
    "aten.native_group_norm": normalisation_flops,
    "aten.grid_sampler_2d": sampling_flops,
    "aten.addcmul": addcmul_flops,
    "aten.sum": sum_flops,
    "aten.mean": sum_flops,
    "torchvision.roi_align": roi_align_flops,
}


class FlopCounter(TorchDispatchMode):
    """Counts the operations of a module while it runs, for each of its modules.

    Formulas are those of `torch.utils.flop_counter` and ours. Shapes are all they need, so that a
    module may be on the meta device.

    Args:
        model: the module.

    Attributes:
        flops: by name of a module, without its children's.
        uncounted: operators that nobody says how to count, or that they need not be counted.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.flops: Counter[str] = Counter()
        self.uncounted: set[str] = set()
        self._running = [""]

    def run(self, *inputs: Any) -> None:
        """Call the module and count."""
        hooks = []
        for name, module in self.model.named_modules():
            hooks.append(module.register_forward_pre_hook(partial(self._enter, name)))
            hooks.append(module.register_forward_hook(self._leave))
        try:
            # By PyTorch's own operators, for which there are formulas.
            with torch.no_grad(), backends(attend="plain", deformable="grid"), self:
                self.model(*inputs)
        finally:
            for hook in hooks:
                hook.remove()

    def _enter(self, name: str, *_: Any) -> None:
        self._running.append(name)

    def _leave(self, *_: Any) -> None:
        self._running.pop()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        operator, name = func.overloadpacket, str(func.overloadpacket)
        if operator in flop_registry:  # which takes a multiply-add for two operations
            self._add(flop_registry[operator](*args, **kwargs, out_val=out) // 2)
        elif name in FORMULAS:
            self._add(FORMULAS[name](out, *args))
        elif not (func.is_view or torch.Tag.pointwise in func.tags or name in IGNORED):
            self.uncounted.add(name)
        return out

    def _add(self, count: int) -> None:
        self.flops[self._running[-1]] += count


class Part(NamedTuple):
    """What a part of a model costs."""

    parameters: int  # trainable
    flops: float


@dataclass(frozen=True)
class Analysis:
    """What a model costs.

    Args:
        parts: by name; together they are the model.
        uncounted: operators that nobody says how to count, or that they need not be counted.
    """

    parts: dict[str, Part]
    uncounted: set[str]

    @property
    def total(self) -> Part:
        """The whole model."""
        return Part(*map(sum, zip(*self.parts.values())))


def build(config: DictConfig) -> nn.Module:
    """The model that `model` of a config describes, not trained, for analysis.

    On the meta device a model takes no memory and no time. Detectors of other make need a CPU: in
    them numbers decide how many regions are looked at.
    """
    with torch.device("meta"):
        model: nn.Module = instantiate(config)
    if not isinstance(model, SAMDETR):
        model = instantiate(config)
        for parameter in model.parameters():  # proposals are anchors then, as many as may be
            nn.init.zeros_(parameter)
    return model.eval()


def analyze(model: nn.Module, sizes: Sequence[tuple[int, int]] = COCO_SIZES) -> Analysis:
    """Parameters of a detector, and its operations at inference.

    Args:
        model: in evaluation mode.
        sizes: of the images, one after the other; operations are the mean of them.

    Raises:
        SamdetrError: if there is no size, or one too small.
    """
    if not sizes or min(map(min, sizes)) < MIN_SIZE:
        raise SamdetrError(
            f"sizes must be of one image or more, at least {MIN_SIZE} pixels high and wide, "
            f"got {[tuple(x) for x in sizes]}"
        )
    device = next(model.parameters()).device
    counter = FlopCounter(model)
    for size in sizes:
        counter.run([{"image": 255 * torch.rand(3, *size, device=device)}])
    names = dict.fromkeys(part_of(name) for name, _ in model.named_modules() if name)
    parts = {name: [0, 0] for name in (*names, OTHER)}
    for name, parameter in model.named_parameters():
        parts[part_of(name.rpartition(".")[0])][0] += parameter.numel() * parameter.requires_grad
    for name, flops in counter.flops.items():
        parts[part_of(name)][1] += flops
    return Analysis(
        {name: Part(x[0], x[1] / len(sizes)) for name, x in parts.items() if any(x)},
        counter.uncounted,
    )


def part_of(module: str) -> str:
    """The part of a model that a module belongs to, such as "decoder.aligner.pooler"."""
    part = []
    for name in module.split("."):
        if name in UNNAMED or name.isdigit():
            continue
        part.append(name.rstrip("0123456789"))  # norm1, norm2
        if name not in EXPANDED:
            break
    return ".".join(part) or OTHER


def part_table(analysis: Analysis) -> str:
    """A markdown table of the parts of a model, and what it leaves out."""
    rows = [
        (name, f"{part.parameters:,}", f"{part.flops / 1e9:.2f}")
        for name, part in [*analysis.parts.items(), ("total", analysis.total)]
    ]
    text = markdown_table(("part", "parameters", "GFLOPs"), rows)
    if analysis.uncounted:
        text += f"\n\nNot counted: {', '.join(sorted(analysis.uncounted))}"
    return text
