"""Alternatives in practice: detectors of the package `transformers`, with random weights.

Each has a ResNet-50, which the package freezes entirely, and the package's defaults, which include
no auxiliary losses.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from samdetr.modeling import SAMDETR

from .contract import Baseline, Target

try:
    transformers: Any = import_module("transformers")
except ImportError as error:
    raise ImportError(
        f"baselines.peers needs the package transformers, which cannot be imported ({error}): run "
        "`pip install transformers`"
    ) from error


class Peer(Baseline):
    """A detector of the package with the interface of Detectron2.

    Args:
        model: see `Baseline`.
        detector: one of the package's `...ForObjectDetection`.
        scores: maps its (B, N, ...) logits to (B, N, K) scores.
    """

    def __init__(self, model: SAMDETR, detector: nn.Module, scores: Callable[[Tensor], Tensor]):
        super().__init__(model)
        self.detector = detector
        self.scores = scores

    def losses(self, images: Tensor, mask: Tensor, targets: list[Target]) -> dict[str, Tensor]:
        """Return the package's weighted sum as the only loss."""
        labels = [{"class_labels": x["labels"], "boxes": x["boxes"]} for x in targets]
        output = self.detector(pixel_values=images, pixel_mask=(~mask).long(), labels=labels)
        return {"loss": output.loss}

    def detect(self, images: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """See `Baseline.detect`."""
        output = self.detector(pixel_values=images, pixel_mask=(~mask).long())
        return self.scores(output.logits), output.pred_boxes


def detr(model: SAMDETR) -> Peer:
    """DETR with as many classes as the given `SAMDETR`."""
    return make(model, "Detr", object_scores)


def conditional_detr(model: SAMDETR) -> Peer:
    """Conditional DETR."""
    return make(model, "ConditionalDetr", torch.sigmoid)


def dab_detr(model: SAMDETR) -> Peer:
    """DAB-DETR."""
    return make(model, "DabDetr", torch.sigmoid)


def deformable_detr(model: SAMDETR) -> Peer:
    """Deformable DETR on four scales, without box refinement and two-stage queries."""
    return make(model, "DeformableDetr", torch.sigmoid, ("stage2", "stage3", "stage4"))


def object_scores(logits: Tensor) -> Tensor:
    """Softmax over classes, without the last, which is "no object"."""
    return logits.softmax(-1)[..., :-1]


def make(
    model: SAMDETR,
    name: str,
    scores: Callable[[Tensor], Tensor],
    stages: tuple[str, ...] = ("stage4",),
    **settings: Any,
) -> Peer:
    """Build a peer on the device and in the mode of a model.

    Args:
        model: a `SAMDETR`.
        name: prefix of the architecture's class names in the package.
        scores: see `Peer`.
        stages: backbone stages that the architecture uses.
        settings: overrides of the package's config of the architecture.
    """
    backbone = transformers.ResNetConfig(out_features=list(stages))
    settings = {"backbone_config": backbone, "num_labels": model.num_classes, **settings}
    config = getattr(transformers, f"{name}Config")(**settings)
    detector = getattr(transformers, f"{name}ForObjectDetection")(config)
    return Peer(model, detector, scores).to(model.pixel_mean.device).train(model.training)
