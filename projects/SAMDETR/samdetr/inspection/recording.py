"""Inputs of the cross-attention of every decoder layer, recorded by forward hooks.

Paper: figures 3 and 5. The kernels of `attend` never materialise the attention weights, so they are
recomputed from the recorded inputs, for the queries of interest.

Shapes: B images, N queries, M keypoints, S = H * W cells of one feature level, C channels.
Units:  boxes are (cx, cy, w, h) and points (x, y), both fractions of the unpadded image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import singledispatch
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError
from ..modeling import (
    SAMDETR,
    AlignedCrossAttention,
    ConditionalCrossAttention,
    DecoderLayer,
    DETRCrossAttention,
    GaussianPrior,
)
from ..modeling.attention import split_heads
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


@contextmanager
def recording(model: SAMDETR) -> Iterator[list[LayerRecord]]:
    """Context manager that collects a record of each decoder layer that runs in the block.

    Raises:
        InputError: if the cross-attention of a layer has no attention map.
    """
    check_attention(model)
    boxes: list[Tensor] = []
    records: list[LayerRecord] = []

    def after_aligner(_: nn.Module, inputs: tuple[Any, ...], output: AlignedQueries) -> None:
        boxes.append(inputs[2])

    def after_attention(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        records.append(LayerRecord(module, boxes.pop(), *inputs))

    with ExitStack() as hooks:
        for layer in _decoder_layers(model):
            hooks.enter_context(layer.aligner.register_forward_hook(after_aligner))
            hooks.enter_context(layer.cross_attention.register_forward_hook(after_attention))
        yield records


def _decoder_layers(model: SAMDETR) -> list[DecoderLayer]:
    return [cast(DecoderLayer, x) for x in model.decoder.layers]


@torch.no_grad()
def observe(model: SAMDETR, batched_inputs: list[dict[str, Any]]) -> Observation:
    """Run a detector in evaluation mode, in float32, and record its decoder.

    Args:
        model: the detector.
        batched_inputs: as in `SAMDETR.forward`.

    Raises:
        InputError: as in `recording`.
    """
    images, padding = model.batch(batched_inputs)
    with recording(model) as layers:
        predictions, _ = model.predict(images.tensor, padding)
    return Observation(layers, predictions)


@torch.no_grad()
def attention_weights(record: LayerRecord) -> Tensor:
    """Recompute the weights of a cross-attention, (B, heads, N, S); each row sums to 1."""
    query, key = queries_and_keys(record.attention, record.aligned, record.level)
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
    scale = prior.scale(record.aligned.descriptor).float().unflatten(-1, (-1, 2))
    return (scale * record.level.extent[:, None, None]).square() / prior.bandwidth


@singledispatch
def queries_and_keys(
    attention: nn.Module, aligned: AlignedQueries, level: FeatureLevel
) -> tuple[Tensor, Tensor]:
    """Project the queries and keys of a cross-attention.

    Returns:
        (B, heads, N, D) queries and (B, heads or 1, S, D) keys, the arguments of `attend`.

    Raises:
        InputError: if the cross-attention does not compare queries with keys.
    """
    raise _unsupported(type(attention))


@queries_and_keys.register
def _(
    attention: AlignedCrossAttention, aligned: AlignedQueries, level: FeatureLevel
) -> tuple[Tensor, Tensor]:
    query = attention.query_content(aligned.content) + attention.query_position(aligned.position)
    key = attention.key_content(level.tokens) + attention.key_position(level.position)
    return attention.heads(query, key)


@queries_and_keys.register
def _(
    attention: DETRCrossAttention, aligned: AlignedQueries, level: FeatureLevel
) -> tuple[Tensor, Tensor]:
    inputs = (aligned.content + aligned.position).squeeze(2), level.tokens + level.position
    weights, biases = attention.in_proj.weight.chunk(3), attention.in_proj.bias.chunk(3)
    query, key = (F.linear(*x) for x in zip(inputs, weights, biases))
    return split_heads(query, attention.num_heads), split_heads(key, attention.num_heads)


@queries_and_keys.register
def _(
    attention: ConditionalCrossAttention, aligned: AlignedQueries, level: FeatureLevel
) -> tuple[Tensor, Tensor]:
    position, target = aligned.position.squeeze(2).chunk(2, dim=-1)
    key_position = attention.key_position(level.position)
    query, key = attention.contents(
        aligned.content.squeeze(2), position, level.tokens, key_position
    )
    # Each head concatenates a content and a spatial part.
    parts = (query, attention.query_target(target)), (key, key_position)
    joined = [torch.cat([split_heads(x, attention.num_heads) for x in pair], -1) for pair in parts]
    return joined[0], joined[1]


def check_attention(model: nn.Module) -> None:
    """Raise InputError unless every decoder layer of the model has an attention map."""
    if not isinstance(model, SAMDETR):
        raise InputError(f"the model is a {type(model).__name__}, must be a {SAMDETR.__name__}")
    for layer in _decoder_layers(model):
        kind = type(layer.cross_attention)
        if queries_and_keys.dispatch(kind) is queries_and_keys.dispatch(nn.Module):
            raise _unsupported(kind)


def _unsupported(kind: type[nn.Module]) -> InputError:
    supported = (AlignedCrossAttention, DETRCrossAttention, ConditionalCrossAttention)
    names = ", ".join(x.__name__ for x in supported)
    return InputError(
        f"{kind.__name__} samples a few points and has no attention map to show; {names} have one"
    )
