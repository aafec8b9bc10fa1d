"""What is exported: a detector from tensors to tensors. Its two ends are choices.

What goes in is pixels (`PixelInputs`) or what normalisation and padding made of them
(`NormalisedInputs`). What comes out is detections (`BestDetections`) or the scores of all pairs of
query and class (`AllPairs`).

Shapes: B images, N queries, K classes, D detections of an image.
Units:  boxes are corners (x0, y0, x1, y1), fractions of the unpadded image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ExportError
from ..modeling import SAMDETR
from ..modeling.ops.boxes import corners
from ..modeling.postprocessing import best
from .agreement import Difference, Pairs, matched
from .traceable import traceable


class PadToMultiple(nn.Module):
    """Images made larger, below and on the right, to a multiple of what the backbone divides by.

    Args:
        divisor: pixels.
    """

    def __init__(self, divisor: int):
        super().__init__()
        self.divisor = divisor

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, height, width) images, larger."""
        height, width = images.shape[2:]
        return F.pad(images, (0, -width % self.divisor, 0, -height % self.divisor))


class PixelInputs(nn.Module):
    """Normalisation and padding inside of the graph.

    Args:
        model: the detector.

    Raises:
        ExportError: if its backbone takes nothing but squares of one size.
    """

    axes = {"images": {0: "batch", 2: "height", 3: "width"}, "sizes": {0: "batch"}}
    mean: Tensor
    std: Tensor

    def __init__(self, model: SAMDETR):
        super().__init__()
        if model.backbone.padding_constraints.get("square_size", 0):
            raise ExportError(
                "the backbone pads images to squares of one size, which pre-processing inside of "
                "the graph does not: choose it outside"
            )
        divisor = model.backbone.size_divisibility
        self.pad = PadToMultiple(divisor) if divisor > 1 else nn.Identity()
        self.register_buffer("mean", model.pixel_mean.clone())
        self.register_buffer("std", model.pixel_std.clone())

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """What `SAMDETR.predict` takes.

        Args:
            images: (B, 3, height, width) uint8; what lies beyond an image does not matter.
            sizes: (B, 2) int64 height and width of each image.
        """
        images = self.pad(images)
        height, width = images.shape[2:]
        below = torch.arange(height, device=images.device) >= sizes[:, :1]  # (B, height)
        beside = torch.arange(width, device=images.device) >= sizes[:, 1:]  # (B, width)
        padding = below[:, :, None] | beside[:, None]
        return ((images - self.mean) / self.std).masked_fill(padding[:, None], 0.0), padding

    @staticmethod
    def collect(model: SAMDETR, images: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Inputs for some (3, H, W) uint8 images."""
        sizes = torch.tensor([x.shape[1:] for x in images])
        batch = images[0].new_zeros(len(images), 3, *sizes.amax(0).tolist())
        for place, image, (height, width) in zip(batch, images, sizes.tolist()):
            place[:, :height, :width] = image
        return batch, sizes


class NormalisedInputs(nn.Module):
    """Normalisation and padding outside of the graph.

    Args:
        model: the detector.
    """

    axes = {
        "images": {0: "batch", 2: "height", 3: "width"},
        "padding": {0: "batch", 1: "height", 2: "width"},
    }

    def __init__(self, model: SAMDETR):
        super().__init__()

    def forward(self, images: Tensor, padding: Tensor) -> tuple[Tensor, Tensor]:
        """What `SAMDETR.predict` takes, as it is.

        Args:
            images: (B, 3, height, width) float32, normalised, 0 beyond an image.
            padding: (B, height, width) bool, True beyond an image.
        """
        return images, padding

    @staticmethod
    def collect(model: SAMDETR, images: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Inputs for some (3, H, W) uint8 images."""
        batch, padding = model.batch([{"image": x} for x in images])
        return batch.tensor, padding


class BestDetections(nn.Module):
    """The pairs of query and class with the highest scores, inside of the graph.

    Args:
        model: the detector, for its `detections_per_image`.
    """

    axes = {"boxes": {0: "batch"}, "scores": {0: "batch"}, "classes": {0: "batch"}}

    def __init__(self, model: SAMDETR):
        super().__init__()
        self.count = model.detections_per_image

    def forward(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, ...]:
        """(B, N, 4) boxes and (B, N, K) scores to (B, D, 4), (B, D) and (B, D) classes."""
        return best(scores, boxes, self.count)

    def compare(self, found: Sequence[Tensor], expected: Pairs) -> Difference:
        """How what was found differs from the best of the pairs, in whatever order of equals."""
        differences = [
            matched(boxes, scores, classes, Pairs(*pairs), self.count)
            for boxes, scores, classes, pairs in zip(*found, zip(*expected))
        ]
        return Difference.largest(differences)


class AllPairs(nn.Module):
    """All pairs; which of them are detections is said outside of the graph.

    Args:
        model: the detector.
    """

    axes = {"boxes": {0: "batch"}, "scores": {0: "batch"}}

    def __init__(self, model: SAMDETR):
        super().__init__()

    def forward(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, ...]:
        """(B, N, 4) boxes and (B, N, K) scores as they are."""
        return boxes, scores

    def compare(self, found: Sequence[Tensor], expected: Pairs) -> Difference:
        """How what was found differs from the pairs, one by one."""
        boxes, scores, extent = expected
        pixels = ((found[0] - boxes) * extent[:, None]).abs().max().item()
        return Difference((found[1] - scores).abs().max().item(), pixels)


INPUTS = {"inside": PixelInputs, "outside": NormalisedInputs}  # by where pre-processing is done
OUTPUTS = {"inside": BestDetections, "outside": AllPairs}  # by where the best are picked


class DetectionGraph(nn.Module):
    """The detector between its two ends, all of it traceable.

    Args:
        model: the detector, of which a copy is made.
        inputs: one of INPUTS.
        outputs: one of OUTPUTS.
    """

    def __init__(self, model: SAMDETR, inputs: nn.Module, outputs: nn.Module):
        super().__init__()
        self.inputs: Any = inputs
        self.model = traceable(model)
        self.outputs: Any = outputs

    def forward(self, images: Tensor, extent: Tensor) -> tuple[Tensor, ...]:
        """What the outputs make of what the inputs take."""
        return self.outputs(*detect(self.model, *self.inputs(images, extent)))


class Detected(NamedTuple):
    """All pairs of query and class."""

    boxes: Tensor  # (B, N, 4)
    scores: Tensor  # (B, N, K)


def detect(model: SAMDETR, images: Tensor, padding: Tensor) -> Detected:
    """All pairs that a detector predicts; arguments as for `SAMDETR.predict`."""
    predictions, _ = model.predict(images, padding)
    scores = model.decoder.scores(predictions.logits[-1])
    return Detected(corners(predictions.boxes[-1]), scores)
