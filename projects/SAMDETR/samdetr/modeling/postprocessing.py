"""From the predictions of the last decoder layer to Detectron2's `Instances`.

Shapes: B images, N queries, K classes, L decoder layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

from ..structures import Predictions
from .ops.boxes import corners


def detections(
    predictions: Predictions,
    sizes: Sequence[tuple[int, int]],
    count: int,
    scores_of: Callable[[Tensor], Tensor] = torch.sigmoid,
) -> list[Instances]:
    """The best-scoring pairs of query and class of each image.

    As in DETR, there is no threshold and no suppression, and boxes are not clipped to the image.

    Args:
        predictions: of all decoder layers; the last one counts.
        sizes: (height, width) in pixels that the boxes of each image are scaled to.
        count: detections per image, fewer where N * K is less.
        scores_of: from logits to (B, N, K) scores.

    Returns:
        Per image: `pred_boxes` in pixels, `scores` in descending order, `pred_classes`.
    """
    found = best(scores_of(predictions.logits[-1]), corners(predictions.boxes[-1]), count)
    return [_instances(*x) for x in zip(sizes, *found)]


def best(scores: Tensor, boxes: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The pairs of query and class with the highest scores.

    Args:
        scores: (B, N, K).
        boxes: (B, N, 4).
        count: D, of each image, fewer where N * K is less.

    Returns:
        (B, D, 4) boxes, (B, D) scores in descending order, (B, D) classes.
    """
    num_queries, num_classes = scores.shape[1:]
    scores, index = scores.flatten(1).topk(min(count, num_queries * num_classes), dim=1)
    query, classes = index // num_classes, index % num_classes
    return boxes.gather(1, query[..., None].expand(-1, -1, 4)), scores, classes


def _instances(size: tuple[int, int], boxes: Tensor, scores: Tensor, classes: Tensor) -> Instances:
    scale = torch.tensor([size[1], size[0]] * 2, device=boxes.device, dtype=boxes.dtype)
    return Instances(size, pred_boxes=Boxes(boxes * scale), scores=scores, pred_classes=classes)
