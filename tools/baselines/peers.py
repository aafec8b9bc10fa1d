"""What one would take instead: detectors of the package `transformers`, with random weights.

Each has a ResNet-50 (which the package keeps frozen as a whole) and the package's defaults, among
them no auxiliary losses.
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
        f"baselines.peers measures the package transformers, which does not import ({error}): run "
        "`pip install transformers`"
    ) from error


class Peer(Baseline):
    """A detector of the package with the contract of Detectron2.

    Args:
        model: a `SAMDETR`, as in the parent.
        detector: one of the package's `...ForObjectDetection`.
        scores: from its (B, N, ...) logits to (B, N, K) scores.
    """

    def __init__(self, model: SAMDETR, detector: nn.Module, scores: Callable[[Tensor], Tensor]):
        super().__init__(model)
        self.detector = detector
        self.scores = scores

    def losses(self, images: Tensor, mask: Tensor, targets: list[Target]) -> dict[str, Tensor]:
        """The package's weighted sum as the only loss."""
        labels = [{"class_labels": x["labels"], "boxes": x["boxes"]} for x in targets]
        output = self.detector(pixel_values=images, pixel_mask=(~mask).long(), labels=labels)
        return {"loss": output.loss}

    def detect(self, images: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """As in the parent."""
        output = self.detector(pixel_values=images, pixel_mask=(~mask).long())
        return self.scores(output.logits), output.pred_boxes


def detr(model: SAMDETR) -> Peer:
    """DETR, in place of a `SAMDETR` with as many classes, as the other functions here."""
    return make(model, "Detr", object_scores)


def conditional_detr(model: SAMDETR) -> Peer:
    """Conditional DETR."""
    return make(model, "ConditionalDetr", torch.sigmoid)


def dab_detr(model: SAMDETR) -> Peer:
    """DAB-DETR."""
    return make(model, "DabDetr", torch.sigmoid)


def deformable_detr(model: SAMDETR) -> Peer:
    """Deformable DETR without box refinement and second stage, on four scales."""
    return make(model, "DeformableDetr", torch.sigmoid, ("stage2", "stage3", "stage4"))


def object_scores(logits: Tensor) -> Tensor:
    """Probabilities of the classes without the last, which means that there is nothing."""
    return logits.softmax(-1)[..., :-1]


def make(
    model: SAMDETR,
    name: str,
    scores: Callable[[Tensor], Tensor],
    stages: tuple[str, ...] = ("stage4",),
    **settings: Any,
) -> Peer:
    """A peer on the device of a model and in its mode.

    Args:
        model: a `SAMDETR`.
        name: of the architecture in the package's class names.
        scores: as in `Peer`.
        stages: of the backbone that the architecture reads.
        settings: of the package's config of the architecture, where they are not its defaults.
    """
    backbone = transformers.ResNetConfig(out_features=list(stages))
    settings = {"backbone_config": backbone, "num_labels": model.num_classes, **settings}
    config = getattr(transformers, f"{name}Config")(**settings)
    detector = getattr(transformers, f"{name}ForObjectDetection")(config)
    return Peer(model, detector, scores).to(model.pixel_mean.device).train(model.training)
