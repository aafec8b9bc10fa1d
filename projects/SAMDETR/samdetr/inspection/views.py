"""From the records of the decoder to what pictures and the page show of it.

Paper: figures 3 and 5.

Shapes: H x W cells of a feature level that lie in the image, P keypoints of a map.
Units:  boxes are (x0, y0, x1, y1) and points (x, y), both fractions of the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_iou

from ..modeling import SAMDETR, DETRPredictionHead
from ..modeling.ops.boxes import corners
from .recording import LayerRecord, Observation, attention_weights, gaussian_sharpness

SAME_OBJECT = 0.5  # IoU of two boxes from which on they are taken to be of one object
ALL_HEADS = "all heads"


class MapView(NamedTuple):
    """Where a head looks, or all of them in the mean."""

    name: str
    weights: np.ndarray  # (H, W), the sum is 1
    points: np.ndarray  # (P, 2) its keypoints
    sharpness: np.ndarray | None = None  # (P, 2) of the Gaussians around them, of a single head


class LayerView(NamedTuple):
    """A query in one decoder layer."""

    level: int  # of the features, 0 being the finest
    score: float  # of the query's class after the layer
    reference: np.ndarray | None  # (4,) the box that the layer starts from, if the model has one
    predicted: np.ndarray  # (4,) the box that it ends with
    maps: list[MapView]  # of all heads and of each head


class QueryView(NamedTuple):
    """A query on its way through the decoder of a model."""

    model: str
    query: int
    label: str  # of the class with the highest score after the last layer
    layers: list[LayerView]


class ImageView(NamedTuple):
    """An image and what was looked at in it."""

    name: str
    picture: np.ndarray  # (height, width, 3) uint8 RGB
    objects: list[list[QueryView]]  # per chosen query, its view in every model


def best_queries(model: SAMDETR, observation: Observation, count: int) -> list[int]:
    """The queries of the first image with the highest scores after the last layer."""
    scores = _scores(model, observation)[-1].amax(-1)
    return scores.topk(min(count, len(scores))).indices.tolist()


def same_object(model: SAMDETR, observation: Observation, box: Tensor) -> int:
    """The query of the first image that stands for the object in a box.

    It is the one with the highest score of those whose last boxes overlap it with an IoU of at
    least SAME_OBJECT, and if there is none, the one that overlaps it most.

    Args:
        model: the detector.
        observation: of the model.
        box: (4,) corners.
    """
    boxes = corners(observation.predictions.boxes[-1, 0])
    overlap = box_iou(boxes, box[None].to(boxes))[:, 0]
    score = _scores(model, observation)[-1].amax(-1)
    return int(torch.where(overlap >= SAME_OBJECT, 1 + score, overlap).argmax())


def last_box(observation: Observation, query: int) -> Tensor:
    """(4,) corners of the box of a query after the last layer, in the first image."""
    return corners(observation.predictions.boxes[-1, 0, query])


def view_query(
    name: str, model: SAMDETR, observation: Observation, query: int, classes: Sequence[str] | None
) -> QueryView:
    """What a query of the first image looks at in every layer.

    Args:
        name: of the model.
        model: the detector.
        observation: of the model.
        query: its index.
        classes: names of the classes; without them a class is called by its number.
    """
    scores = _scores(model, observation)[:, query]  # (L, K)
    label = int(scores[-1].argmax())
    # The boxes of the original DETR start from nothing: a reference would say nothing.
    refers = not isinstance(model.decoder.heads[0], DETRPredictionHead)
    layers = []
    for index, record in enumerate(observation.layers):
        one = record.of_queries([query])
        view = LayerView(
            level=model.decoder.levels[index],
            score=float(scores[index, label]),
            reference=_numbers(corners(one.boxes[0, 0])) if refers else None,
            predicted=_numbers(corners(observation.predictions.boxes[index, 0, query])),
            maps=_maps(one, refers),
        )
        layers.append(view)
    return QueryView(name, query, classes[label] if classes else str(label), layers)


def _maps(record: LayerRecord, refers: bool) -> list[MapView]:
    """Of a record of one query."""
    width, height = record.level.extent[0].int().tolist()
    weights = attention_weights(record)[0, :, 0].unflatten(-1, record.level.size)
    weights = weights[:, :height, :width]  # the rest is padding, where they are 0
    points = _numbers(record.aligned.points[0, 0]) if refers else np.empty((0, 2))
    sharpness = gaussian_sharpness(record)
    around = None if sharpness is None else _numbers(sharpness[0, 0])
    maps = [MapView(ALL_HEADS, _numbers(weights.mean(0)), points)]
    for head, own in enumerate(_numbers(weights)):
        chosen = keypoints_of_head(head, len(weights), len(points))
        gaussian = None if around is None else around[chosen]
        maps.append(MapView(f"head {head + 1}", own, points[chosen], gaussian))
    return maps


def keypoints_of_head(head: int, heads: int, count: int) -> slice:
    """Which of the keypoints a head asks with, as in `ConcatenatedCrossAttention`."""
    first = head * count // heads
    return slice(first, max((head + 1) * count // heads, first + min(count, 1)))


def _scores(model: SAMDETR, observation: Observation) -> Tensor:
    """(L, N, K) scores of the first image."""
    return model.decoder.scores(observation.predictions.logits[:, 0])


def _numbers(x: Tensor) -> np.ndarray:
    return x.float().cpu().numpy()
