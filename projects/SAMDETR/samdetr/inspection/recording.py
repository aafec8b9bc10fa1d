"""Inputs of the cross-attention of every decoder layer, recorded by hooks on the aligners.

Paper: figures 3 and 5. The kernels of `attend` never materialise the attention weights, so they are
recomputed from the recorded inputs, for the queries of interest.

Shapes: B images, N queries, M keypoints, S = H * W cells of one feature level, C channels.
Units:  boxes are (cx, cy, w, h) and points (x, y), both fractions of the unpadded image.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..modeling import SAMDETR, DecoderLayer, GaussianPrior
from ..modeling.ops.attend import SeparableBias
from ..structures import AlignedQueries, FeatureLevel, Predictions


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
    """Run a detector in evaluation mode, in float32, and record its decoder.

    Args:
        model: the detector.
        batched_inputs: as in `SAMDETR.forward`.

    Raises:
        InputError: if the cross-attention of a layer has no attention map.
    """
    check_attention(model)
    layers, calls = _decoder_layers(model), []
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


def check_attention(model: nn.Module) -> None:
    """Raise InputError unless every decoder layer of the model has an attention map."""
    if not isinstance(model, SAMDETR):
        raise InputError(f"the model is a {type(model).__name__}, must be a {SAMDETR.__name__}")
    for layer in _decoder_layers(model):
        if not hasattr(layer.cross_attention, "queries_and_keys"):
            name = type(layer.cross_attention).__name__
            raise InputError(f"{name} samples a few points and has no attention map to show")


def _decoder_layers(model: SAMDETR) -> list[DecoderLayer]:
    return [cast(DecoderLayer, x) for x in model.decoder.layers]


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

    Returns:
        (B, N, M, 2) along x and y, per squared fraction of the image; None without SMCA.
    """
    prior = record.attention.prior
    if not isinstance(prior, GaussianPrior):
        return None
    return -prior.slope(record.aligned.descriptor) * record.level.extent[:, None, None].square()
