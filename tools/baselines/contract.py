"""Base class of the baselines: Detectron2's detector interface around a model.

Shapes: B images, N queries, K classes, T boxes of an image.
Units:  boxes are (cx, cy, w, h), fractions of the unpadded image.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn
from torchvision.ops import box_convert

from samdetr.modeling import SAMDETR

Target = dict[str, Tensor]  # "labels", (T,), and "boxes", (T, 4), of an image


class Baseline(nn.Module, ABC):
    """Detector with the inputs and outputs of `SAMDETR.forward`.

    Args:
        model: supplies the pixel normalisation and the number of detections.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, model: SAMDETR):
        super().__init__()
        self.register_buffer("pixel_mean", model.pixel_mean, persistent=False)
        self.register_buffer("pixel_std", model.pixel_std, persistent=False)
        self.detections_per_image = model.detections_per_image

    @abstractmethod
    def losses(self, images: Tensor, mask: Tensor, targets: list[Target]) -> dict[str, Tensor]:
        """Return the weighted losses by name, given the outputs of `batch` and `target`."""

    @abstractmethod
    def detect(self, images: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return (B, N, K) scores and (B, N, 4) boxes, given the outputs of `batch`."""

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """See `SAMDETR.forward`."""
        images, mask = self.batch([x["image"] for x in batched_inputs])
        if self.training:
            return self.losses(images, mask, [self.target(x["instances"]) for x in batched_inputs])
        sizes = [
            (x.get("height", x["image"].shape[1]), x.get("width", x["image"].shape[2]))
            for x in batched_inputs
        ]
        return [{"instances": x} for x in self.instances(*self.detect(images, mask), sizes)]

    def batch(self, images: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Normalise and pad images; return the batch and its mask, True on padding."""
        images = [(x.to(self.pixel_mean.device) - self.pixel_mean) / self.pixel_std for x in images]
        height, width = (max(x.shape[i] for x in images) for i in (1, 2))
        batch = images[0].new_zeros(len(images), 3, height, width)
        mask = torch.ones(len(images), height, width, dtype=torch.bool, device=batch.device)
        for image, padded, outside in zip(images, batch, mask):
            padded[:, : image.shape[1], : image.shape[2]].copy_(image)
            outside[: image.shape[1], : image.shape[2]] = False
        return batch, mask

    def target(self, instances: Instances) -> Target:
        """Convert the ground truth of an image to normalised cxcywh boxes."""
        height, width = instances.image_size
        boxes = box_convert(instances.gt_boxes.tensor.float(), "xyxy", "cxcywh")
        boxes = boxes / boxes.new_tensor([width, height, width, height])
        device = self.pixel_mean.device
        return {"labels": instances.gt_classes.to(device), "boxes": boxes.to(device)}

    def instances(
        self, scores: Tensor, boxes: Tensor, sizes: list[tuple[int, int]]
    ) -> list[Instances]:
        """Return the best query-class pairs of every image, scaled to its (height, width)."""
        num_classes = scores.shape[-1]
        scores = scores.flatten(1)
        scores, index = scores.topk(min(self.detections_per_image, scores.shape[1]), dim=1)
        query, labels = index // num_classes, index % num_classes
        boxes = box_convert(boxes, "cxcywh", "xyxy").gather(1, query[..., None].repeat(1, 1, 4))
        scale = boxes.new_tensor([[width, height, width, height] for height, width in sizes])
        boxes = boxes * scale[:, None]
        return [
            Instances(size, pred_boxes=Boxes(x), scores=y, pred_classes=z)
            for size, x, y, z in zip(sizes, boxes, scores, labels)
        ]
