"""Layers of the decoder as recorded by hooks, and views of them for the figures and the page.

Paper: figures 3 and 5. The kernels of `attend` never materialise the attention weights, so they are
recomputed from the recorded inputs of the cross-attention, for the queries of interest.

Shapes: B images, N queries, M keypoints, S cells of one feature level, H x W of them inside the
        image, P keypoints of a map.
Units:  records have boxes (cx, cy, w, h) as fractions of the unpadded image, views corners
        (x0, y0, x1, y1); points are (x, y) fractions of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.ops import box_iou

from ..errors import InputError
from ..modeling import SAMDETR, DecoderLayer, DETRPredictionHead, GaussianPrior
from ..modeling.ops.attend import SeparableBias
from ..modeling.ops.boxes import corners
from ..structures import AlignedQueries, FeatureLevel, Predictions

SAME_OBJECT = 0.5  # least IoU of two boxes of the same object
ALL_HEADS = "all heads"


class LayerRecord(NamedTuple):
    """Inputs of one decoder layer and the output of its aligner."""

    attention: Any  # the cross-attention module
    boxes: Tensor  # (B, N, 4) reference boxes
    aligned: AlignedQueries
    level: FeatureLevel

    def of_queries(self, queries: Sequence[int]) -> LayerRecord:
        """Return the record of some queries."""
        index = list(queries)
        aligned = AlignedQueries(*(x[:, index] for x in self.aligned))
        return self._replace(boxes=self.boxes[:, index], aligned=aligned)


class Observation(NamedTuple):
    """Records of all decoder layers and the predictions of the model."""

    layers: list[LayerRecord]
    predictions: Predictions


@torch.no_grad()
def observe(model: SAMDETR, batched_inputs: list[dict[str, Any]]) -> Observation:
    """Run a detector in evaluation mode, in float32, on inputs of `SAMDETR.forward`, and record it.

    Raises:
        InputError: if the cross-attention of a layer has no attention map.
    """
    layers, calls = decoder_layers(model), []
    images, padding = model.batch(batched_inputs)
    with ExitStack() as hooks:
        for layer in layers:
            hook = layer.aligner.register_forward_hook(lambda _, *call: calls.append(call))
            hooks.enter_context(hook)
        predictions, _ = model.predict(images.tensor, padding)
    records = [
        LayerRecord(layer.cross_attention, boxes, aligned, level)
        for layer, ((_, _, boxes, level), aligned) in zip(layers, calls)
    ]
    return Observation(records, predictions)


def decoder_layers(model: nn.Module) -> list[DecoderLayer]:
    """Return the decoder's layers; raise InputError unless all of them have an attention map."""
    if not isinstance(model, SAMDETR):
        raise InputError(f"the model is a {type(model).__name__}, must be a {SAMDETR.__name__}")
    layers = [cast(DecoderLayer, x) for x in model.decoder.layers]
    for layer in layers:
        if not hasattr(layer.cross_attention, "queries_and_keys"):
            name = type(layer.cross_attention).__name__
            raise InputError(f"{name} samples a few points and has no attention map to show")
    return layers


@torch.no_grad()
def attention_weights(record: LayerRecord) -> Tensor:
    """Recompute the weights of a cross-attention, (B, heads, N, S); each row sums to 1."""
    query, key = record.attention.queries_and_keys(record.aligned, record.level)
    bias = record.attention.prior(record.aligned, record.level)
    if isinstance(bias, SeparableBias):
        bias = bias.dense()
    scores = (query * query.shape[-1] ** -0.5) @ key.mT + bias
    return scores.softmax(-1)


@torch.no_grad()
def gaussian_sharpness(record: LayerRecord) -> Tensor | None:
    """Sharpness of SMCA's Gaussian, exp(-(sharpness * (point - keypoint) ** 2).sum()).

    It is (B, N, M, 2) along x and y, per squared fraction of the image; None without SMCA.
    """
    prior = record.attention.prior
    if not isinstance(prior, GaussianPrior):
        return None
    return -prior.slope(record.aligned.descriptor) * record.level.extent[:, None, None].square()


class MapView(NamedTuple):
    """Attention map of a head, or the mean over all heads."""

    name: str
    weights: np.ndarray  # (H, W), sums to 1
    points: np.ndarray  # (P, 2) keypoints
    sharpness: np.ndarray | None = None  # (P, 2) of their Gaussians; of single heads


class LayerView(NamedTuple):
    """A query in one decoder layer."""

    level: int  # index of the feature level, 0 is the finest
    score: float  # of the query's final class, after this layer
    reference: np.ndarray | None  # (4,) box before the layer, if the model has one
    predicted: np.ndarray  # (4,) box after the layer
    maps: list[MapView]  # mean over heads, then each head


class QueryView(NamedTuple):
    """A query in all decoder layers of a model."""

    model: str
    query: int
    label: str  # name of the class with the highest score after the last layer
    layers: list[LayerView]


class ImageView(NamedTuple):
    """An image and the queries that are shown for it."""

    name: str
    picture: np.ndarray  # (height, width, 3) uint8 RGB
    objects: list[list[QueryView]]  # per object, its query in each model


def best_queries(model: SAMDETR, observation: Observation, count: int) -> list[int]:
    """Return the queries of the first image with the highest scores after the last layer."""
    scores = _scores(model, observation)[-1].amax(-1)
    return scores.topk(min(count, len(scores))).indices.tolist()


def same_object(model: SAMDETR, observation: Observation, box: Tensor) -> int:
    """Return the query of the first image that detects the object in a box, (4,) corners.

    This is the query with the highest score among those whose final box has an IoU of at least
    SAME_OBJECT with the box, or, without any, the one with the highest IoU.
    """
    boxes = corners(observation.predictions.boxes[-1, 0])
    overlap = box_iou(boxes, box[None].to(boxes))[:, 0]
    score = _scores(model, observation)[-1].amax(-1)
    return int(torch.where(overlap >= SAME_OBJECT, 1 + score, overlap).argmax())


def view_query(
    name: str, model: SAMDETR, observation: Observation, query: int, classes: Sequence[str] | None
) -> QueryView:
    """Collect the boxes, scores and attention maps of a query of the first image in all layers.

    `name` is that of the model; without the names of classes their indices are shown.
    """
    scores = _scores(model, observation)[:, query]  # (L, K)
    label = int(scores[-1].argmax())
    # The original DETR has no reference boxes.
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
    """Return the attention maps of a record of one query."""
    width, height = record.level.extent[0].int().tolist()
    weights = attention_weights(record)[0, :, 0].unflatten(-1, record.level.size)
    weights = weights[:, :height, :width]  # cells of padding have weight 0
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
    """Return the keypoints of a head, as in `ConcatenatedCrossAttention`."""
    first = head * count // heads
    return slice(first, max((head + 1) * count // heads, first + min(count, 1)))


def _scores(model: SAMDETR, observation: Observation) -> Tensor:
    """Return the (L, N, K) scores of the first image."""
    return model.decoder.scores(observation.predictions.logits[:, 0])


def _numbers(x: Tensor) -> np.ndarray:
    return x.float().cpu().numpy()
