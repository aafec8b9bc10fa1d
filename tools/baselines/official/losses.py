"""Matching and losses, one decoder layer after another.

Shapes: B images, N queries, K classes, T boxes of all images.
Units:  boxes are (cx, cy, w, h), fractions of the unpadded image.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from detectron2.utils.comm import get_world_size
from scipy.optimize import linear_sum_assignment
from torch import Tensor, distributed, nn
from torchvision.ops import box_convert, generalized_box_iou

from ..contract import Target

WEIGHTS = {"loss_ce": 2.0, "loss_bbox": 5.0, "loss_giou": 2.0}
ALPHA, GAMMA = 0.25, 2.0

Outputs = dict[str, Tensor]  # "logits" (B, N, K) and "boxes" (B, N, 4) of one layer
Indices = list[tuple[Tensor, Tensor]]  # per image matched queries and boxes


class Matcher(nn.Module):
    """The cheapest assignment for one layer."""

    @torch.no_grad()
    def forward(self, outputs: Outputs, targets: list[Target]) -> Indices:
        """Match the queries of every image with its boxes, on the host."""
        batch, length = outputs["logits"].shape[:2]
        probability = outputs["logits"].flatten(0, 1).sigmoid()
        boxes = outputs["boxes"].flatten(0, 1)
        labels = torch.cat([x["labels"] for x in targets])
        truth = torch.cat([x["boxes"] for x in targets])
        negative = (1 - ALPHA) * probability**GAMMA * -(1 - probability + 1e-8).log()
        positive = ALPHA * (1 - probability) ** GAMMA * -(probability + 1e-8).log()
        class_cost = positive[:, labels] - negative[:, labels]
        box_cost = torch.cdist(boxes, truth, p=1)
        giou_cost = -generalized_box_iou(corners(boxes), corners(truth))
        cost = (
            WEIGHTS["loss_bbox"] * box_cost
            + WEIGHTS["loss_ce"] * class_cost
            + WEIGHTS["loss_giou"] * giou_cost
        )
        cost = cost.view(batch, length, -1).cpu()
        counts = [len(x["boxes"]) for x in targets]
        return [
            tuple(map(torch.as_tensor, linear_sum_assignment(part[i])))  # type: ignore[misc]
            for i, part in enumerate(cost.split(counts, -1))
        ]


class Criterion(nn.Module):
    """The losses of every layer, and the two figures that are logged with them."""

    def __init__(self) -> None:
        super().__init__()
        self.matcher = Matcher()

    def forward(self, layers: list[Outputs], targets: list[Target]) -> dict[str, Tensor]:
        """Losses by name, without their weights.

        Args:
            layers: outputs of all layers.
            targets: ground truth of every image.

        Returns:
            `loss_ce`, `loss_bbox`, `loss_giou`, `class_error` and `cardinality_error` of the last
            layer; those of the earlier ones, less `class_error`, with `_0`, `_1`, … behind.
        """
        device = layers[0]["boxes"].device
        count = torch.as_tensor([sum(len(x["labels"]) for x in targets)], dtype=torch.float)
        count = count.to(device)
        if get_world_size() > 1:
            distributed.all_reduce(count)
        num_boxes = (count / get_world_size()).clamp(min=1).item()
        losses, last = {}, len(layers) - 1
        for index, outputs in [(last, layers[last]), *enumerate(layers[:last])]:
            indices = self.matcher(outputs, targets)
            found = self.layer_losses(outputs, targets, indices, num_boxes)
            if index == last:
                found["class_error"] = class_error(outputs, targets, indices)
            suffix = "" if index == last else f"_{index}"
            losses.update({name + suffix: value for name, value in found.items()})
        return losses

    def layer_losses(
        self, outputs: Outputs, targets: list[Target], indices: Indices, num_boxes: float
    ) -> dict[str, Tensor]:
        """The losses and the cardinality error of one layer."""
        labels = class_losses(outputs, targets, indices, num_boxes)
        boxes = box_losses(outputs, targets, indices, num_boxes)
        return {**labels, **boxes, "cardinality_error": cardinality_error(outputs, targets)}


def class_losses(
    outputs: Outputs, targets: list[Target], indices: Indices, num_boxes: float
) -> dict[str, Tensor]:
    """Focal loss against one-hot targets, all zero where a query is not matched."""
    logits = outputs["logits"]
    batch, length, num_classes = logits.shape
    nothing = num_classes
    classes = torch.full((batch, length), nothing, dtype=torch.int64, device=logits.device)
    classes[matched_queries(indices)] = matched(targets, indices, "labels")
    one_hot = logits.new_zeros(batch, length, num_classes + 1)
    one_hot.scatter_(2, classes[..., None], 1)
    loss = focal_loss(logits, one_hot[..., :-1], num_boxes) * length
    return {"loss_ce": loss}


def focal_loss(logits: Tensor, truth: Tensor, num_boxes: float) -> Tensor:
    """Mean over the queries, sum over images and classes, of (B, N, K) logits."""
    probability = logits.sigmoid()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    right = probability * truth + (1 - probability) * (1 - truth)
    loss = cross_entropy * (1 - right) ** GAMMA
    loss = (ALPHA * truth + (1 - ALPHA) * (1 - truth)) * loss
    return loss.mean(1).sum() / num_boxes


def box_losses(
    outputs: Outputs, targets: list[Target], indices: Indices, num_boxes: float
) -> dict[str, Tensor]:
    """L1 and generalised IoU loss of the matched pairs."""
    boxes = outputs["boxes"][matched_queries(indices)]
    truth = matched(targets, indices, "boxes")
    giou = generalized_box_iou(corners(boxes), corners(truth)).diag()
    return {
        "loss_bbox": F.l1_loss(boxes, truth, reduction="none").sum() / num_boxes,
        "loss_giou": (1 - giou).sum() / num_boxes,
    }


@torch.no_grad()
def class_error(outputs: Outputs, targets: list[Target], indices: Indices) -> Tensor:
    """Percentage of the matched queries whose largest logit is not the target's; 100 for none."""
    labels = matched(targets, indices, "labels")
    logits = outputs["logits"][matched_queries(indices)]
    if not len(labels):
        return logits.new_tensor(100.0)
    return 100 - (logits.argmax(-1) == labels).float().mean() * 100


@torch.no_grad()
def cardinality_error(outputs: Outputs, targets: list[Target]) -> Tensor:
    """How far the number of queries that do not prefer the last class is from that of boxes."""
    logits = outputs["logits"]
    counts = torch.as_tensor([len(x["labels"]) for x in targets], device=logits.device)
    found = (logits.argmax(-1) != logits.shape[-1] - 1).sum(1)
    return F.l1_loss(found.float(), counts.float())


def matched_queries(indices: Indices) -> tuple[Tensor, Tensor]:
    """Image and query of every pair."""
    images = torch.cat([torch.full_like(query, i) for i, (query, _) in enumerate(indices)])
    return images, torch.cat([query for query, _ in indices])


def matched(targets: list[Target], indices: Indices, key: str) -> Tensor:
    """The labels or boxes of every pair."""
    return torch.cat([x[key][index] for x, (_, index) in zip(targets, indices)])


def corners(boxes: Tensor) -> Tensor:
    """(..., 4) boxes to (x0, y0, x1, y1)."""
    return box_convert(boxes, "cxcywh", "xyxy")
