"""From the predictions of the last decoder layer to Detectron2's `Instances`.

Paper: section 3; as in DETR without threshold or non-maximum suppression.

Shapes: B images, N queries, K classes, D detections per image, L decoder layers.
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
    """Return the best-scoring pairs of query and class of each image.

    Boxes are not clipped to the image.

    Args:
        predictions: of all decoder layers; only the last one is used.
        sizes: (height, width) in pixels that the boxes of each image are scaled to.
        count: D, reduced to N * K where that is less.
        scores_of: from logits to (B, N, K) scores.

    Returns:
        Per image: `pred_boxes` in pixels, `scores` in descending order, `pred_classes`.
    """
    found = best(scores_of(predictions.logits[-1]), corners(predictions.boxes[-1]), count)
    results = []
    for (height, width), boxes, scores, classes in zip(sizes, *found):
        scale = torch.tensor([width, height] * 2, device=boxes.device, dtype=boxes.dtype)
        results.append(
            Instances(
                (height, width),
                pred_boxes=Boxes(boxes * scale),
                scores=scores,
                pred_classes=classes,
            )
        )
    return results


def best(scores: Tensor, boxes: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the pairs of query and class with the highest scores.

    Args:
        scores: (B, N, K).
        boxes: (B, N, 4).
        count: D, reduced to N * K where that is less.

    Returns:
        (B, D, 4) boxes, (B, D) scores in descending order, (B, D) classes.
    """
    num_queries, num_classes = scores.shape[1:]
    scores, index = scores.flatten(1).topk(min(count, num_queries * num_classes), dim=1)
    query, classes = index // num_classes, index % num_classes
    return boxes.gather(1, query[..., None].expand(-1, -1, 4)), scores, classes
