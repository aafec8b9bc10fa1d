"""The exported graph: a detector from tensors to tensors, with a choice of module at both ends.

Inputs are pixels (`PixelInputs`) or normalised and padded images (`NormalisedInputs`); outputs are
detections (`BestDetections`) or the scores of all pairs of query and class (`AllPairs`).

Outputs are compared with the model's by `match`: scores that are equal up to rounding may be sorted
differently, so every detection is compared with the query-class pair that is nearest to it.

Shapes: B images, N queries, K classes, D detections of an image.
Units:  boxes are corners (x0, y0, x1, y1), fractions of the unpadded image.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from copy import deepcopy
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d
from torch import Tensor, nn

from ..errors import ExportError
from ..modeling import SAMDETR, NoDenoising
from ..modeling.backbone import FoldedConv2d, options_of, padding_constraints
from ..modeling.ops import backends
from ..modeling.ops.boxes import corners
from ..modeling.postprocessing import best

SCORE_TOLERANCE = 1e-3
PIXEL_TOLERANCE = 0.1


class PixelInputs(nn.Module):
    """Normalise and pad images inside the graph.

    Raises:
        ExportError: if the backbone needs square images of a fixed size.
    """

    axes = {"images": {0: "batch", 2: "height", 3: "width"}, "sizes": {0: "batch"}}
    mean: Tensor
    std: Tensor

    def __init__(self, model: SAMDETR):
        super().__init__()
        constraints = padding_constraints(model.backbone)
        if constraints.get("square_size", 0):
            raise ExportError(
                "the backbone needs square images of a fixed size, to which the graph cannot pad: "
                'choose preprocessing="outside"'
            )
        self.divisor = max(1, constraints["size_divisibility"])
        self.register_buffer("mean", model.pixel_mean.clone())
        self.register_buffer("std", model.pixel_std.clone())

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the arguments of `SAMDETR.predict`.

        Args:
            images: (B, C, height, width) uint8; pixels outside of an image are ignored.
            sizes: (B, 2) int64 height and width of each image.
        """
        height, width = images.shape[2:]
        images = F.pad(images, (0, -width % self.divisor, 0, -height % self.divisor))
        height, width = images.shape[2:]
        below = torch.arange(height, device=images.device) >= sizes[:, :1]  # (B, height)
        beside = torch.arange(width, device=images.device) >= sizes[:, 1:]  # (B, width)
        padding = below[:, :, None] | beside[:, None]
        return ((images - self.mean) / self.std).masked_fill(padding[:, None], 0.0), padding

    @staticmethod
    def collect(model: SAMDETR, images: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Batch (C, H, W) uint8 images."""
        sizes = torch.tensor([x.shape[1:] for x in images])
        batch = images[0].new_zeros(len(images), len(images[0]), *sizes.amax(0).tolist())
        for place, image, (height, width) in zip(batch, images, sizes.tolist()):
            place[:, :height, :width] = image
        return batch, sizes


class NormalisedInputs(nn.Module):
    """Take images that are normalised and padded outside of the graph."""

    axes = {
        "images": {0: "batch", 2: "height", 3: "width"},
        "padding": {0: "batch", 1: "height", 2: "width"},
    }

    def __init__(self, model: SAMDETR):
        super().__init__()

    def forward(self, images: Tensor, padding: Tensor) -> tuple[Tensor, Tensor]:
        """Return the arguments of `SAMDETR.predict`, which these are.

        Args:
            images: (B, C, height, width) float32, normalised, 0 outside of an image.
            padding: (B, height, width) bool, True outside of an image.
        """
        return images, padding

    @staticmethod
    def collect(model: SAMDETR, images: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Batch (C, H, W) uint8 images."""
        batch, padding = model.batch([{"image": x} for x in images])
        return batch.tensor, padding


class BestDetections(nn.Module):
    """Select the query-class pairs with the highest scores inside the graph."""

    axes = {"boxes": {0: "batch"}, "scores": {0: "batch"}, "classes": {0: "batch"}}

    def __init__(self, model: SAMDETR):
        super().__init__()
        self.count = model.detections_per_image

    def forward(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, ...]:
        """(B, N, 4) boxes and (B, N, K) scores to (B, D, 4), (B, D) and (B, D) classes."""
        return best(scores, boxes, self.count)

    def compare(self, found: Sequence[Tensor], expected: Pairs) -> Difference:
        """Return the difference between detections of a file and pairs of the model."""
        differences = [
            match(boxes, scores, classes, Pairs(*pairs), self.count)
            for boxes, scores, classes, pairs in zip(*found, zip(*expected))
        ]
        return Difference(*map(max, zip(*differences)))


class AllPairs(nn.Module):
    """Return all pairs; the best are selected outside of the graph."""

    axes = {"boxes": {0: "batch"}, "scores": {0: "batch"}}

    def __init__(self, model: SAMDETR):
        super().__init__()

    def forward(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, ...]:
        """Return (B, N, 4) boxes and (B, N, K) scores unchanged."""
        return boxes, scores

    def compare(self, found: Sequence[Tensor], expected: Pairs) -> Difference:
        """Return the elementwise difference between outputs of a file and of the model."""
        boxes, scores, extent = expected
        pixels = ((found[0] - boxes) * extent[:, None]).abs().max().item()
        return Difference((found[1] - scores).abs().max().item(), pixels)


INPUTS = {"inside": PixelInputs, "outside": NormalisedInputs}  # by the place of pre-processing
OUTPUTS = {"inside": BestDetections, "outside": AllPairs}  # by the place of the top-k selection


class DetectionGraph(nn.Module):
    """A copy of a detector between one of the modules in INPUTS and one of those in OUTPUTS."""

    def __init__(self, model: SAMDETR, inputs: nn.Module, outputs: nn.Module):
        super().__init__()
        self.model = traceable(model)
        self.inputs: Any = inputs
        self.outputs: Any = outputs

    def forward(self, images: Tensor, extent: Tensor) -> tuple[Tensor, ...]:
        """Arguments of the input module to results of the output module."""
        return self.outputs(*detect(self.model, *self.inputs(images, extent)))


def detect(model: SAMDETR, images: Tensor, padding: Tensor) -> tuple[Tensor, Tensor]:
    """Return (B, N, 4) boxes and (B, N, K) scores; arguments as for `SAMDETR.predict`."""
    predictions, _ = model.predict(images, padding)
    return corners(predictions.boxes[-1]), model.decoder.scores(predictions.logits[-1])


@torch.no_grad()
def fold(conv: FoldedConv2d) -> Conv2d:
    """Fold the frozen norm of a convolution into its weights."""
    weight, bias = conv.folded()
    plain = Conv2d(**options_of(conv), device="meta")
    plain.weight, plain.bias = nn.Parameter(weight.contiguous()), nn.Parameter(bias)
    return plain


def traceable(model: SAMDETR) -> SAMDETR:
    """Copy a detector with traceable modules and without the modules used in training."""
    # deepcopy takes what is in its memo for a copy.
    folded: Any = {id(x): fold(x) for x in model.modules() if isinstance(x, FoldedConv2d)}
    copy = deepcopy(model, folded)
    copy.denoising, copy.criterion = NoDenoising(), nn.Identity()
    return copy.eval().requires_grad_(False)


def traceable_kernels() -> AbstractContextManager[None]:
    """Attention, sampling and RoIAlign by operators that every runtime has."""
    return backends(attend="plain", deformable="grid", roi_align="products")


class Pairs(NamedTuple):
    """Outputs of the model for all pairs of query and class."""

    boxes: Tensor  # (…, N, 4) corners, fractions of the image
    scores: Tensor  # (…, N, K)
    extent: Tensor  # (…, 4) width, height, width, height of the image in pixels


class Difference(NamedTuple):
    """Largest differences in scores and in box corners; true if they exceed the tolerances."""

    scores: float
    pixels: float

    def __bool__(self) -> bool:
        """True if a tolerance is exceeded or a difference is NaN."""
        return not (self.scores <= SCORE_TOLERANCE and self.pixels <= PIXEL_TOLERANCE)

    def __str__(self) -> str:
        return f"scores differ by {self.scores:.1e}, boxes by {self.pixels:.1e} pixels"


def match(boxes: Tensor, scores: Tensor, classes: Tensor, pairs: Pairs, count: int) -> Difference:
    """Return the difference between the detections of one image and the model's best pairs.

    Scores are compared in order; box and class of a detection with the nearest pair.

    Args:
        boxes, scores, classes: (D, 4), (D) and (D) detections.
        pairs: of the image.
        count: expected number of detections; fewer if N * K is smaller.

    Returns:
        The largest differences; infinite if detections are missing or have an unknown class.
    """
    wanted = pairs.scores.flatten().sort(descending=True).values[:count]
    known = ((classes >= 0) & (classes < pairs.scores.shape[-1])).all()
    if len(scores) != len(wanted) or not known:
        return Difference(torch.inf, torch.inf)
    by_score = (scores[:, None] - pairs.scores[:, classes].T).abs()  # (D, N)
    by_pixels = ((boxes[:, None] - pairs.boxes) * pairs.extent).abs().amax(-1)  # (D, N)
    cost = torch.maximum(by_score / SCORE_TOLERANCE, by_pixels / PIXEL_TOLERANCE)
    nearest = cost.argmin(1, keepdim=True)
    in_order = (scores - wanted).abs()[:, None]
    return Difference(
        torch.maximum(by_score.gather(1, nearest), in_order).max().item(),
        by_pixels.gather(1, nearest).max().item(),
    )
