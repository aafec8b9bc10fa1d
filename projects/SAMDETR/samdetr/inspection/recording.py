"""What goes into the cross-attention of every decoder layer, collected by forward hooks.

Paper: figures 3 and 5. The kernels of attention never hold its weights (`modeling/kernels.py`), so
they are computed again, for the queries that are asked for, from what the hooks have seen.

Shapes: B images, N queries, M keypoints, S = H * W cells of one feature level, C channels.
Units:  boxes are (cx, cy, w, h) and points (x, y), both fractions of the unpadded image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import singledispatch
from typing import Any, NamedTuple, cast

import torch
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
    """What one decoder layer was given, and what its aligner made of it."""

    attention: Any  # the cross-attention, a module
    boxes: Tensor  # (B, N, 4) reference boxes
    aligned: AlignedQueries
    level: FeatureLevel

    def of_queries(self, queries: Sequence[int]) -> LayerRecord:
        """The record of some queries alone."""
        index = list(queries)
        aligned = AlignedQueries(*(x[:, index] for x in self.aligned))
        return self._replace(boxes=self.boxes[:, index], aligned=aligned)


class Observation(NamedTuple):
    """What the decoder saw and said."""

    layers: list[LayerRecord]
    predictions: Predictions


@contextmanager
def recording(model: SAMDETR) -> Iterator[list[LayerRecord]]:
    """Fill a list with a record of each decoder layer that runs inside the block.

    Raises:
        InputError: if a layer has no attention over all cells of a level.
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
    """The weights that `record.attention` gives to the cells: (B, heads, N, S), a row sums to 1."""
    query, key = queries_and_keys(record.attention, record.aligned, record.level)
    bias = record.attention.prior(record.aligned, record.level)
    if isinstance(bias, SeparableBias):
        bias = bias.dense()
    scores = (query * query.shape[-1] ** -0.5) @ key.mT + bias
    return scores.softmax(-1)


@torch.no_grad()
def gaussian_sharpness(record: LayerRecord) -> Tensor | None:
    """Of SMCA's Gaussian exp(-(sharpness * (point - keypoint) ** 2).sum()), in the image's frame.

    Returns:
        (B, N, M, 2), along x and y, per squared fraction of the image; None without a Gaussian.
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
    """What a cross-attention compares.

    Returns:
        (B, heads, N, D) queries and (B, heads or 1, S, D) keys, as `attend` takes them.

    Raises:
        InputError: if it compares no queries with keys.
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
    weights, offsets = attention.in_proj.weight.chunk(3), attention.in_proj.bias.chunk(3)
    query = (aligned.content + aligned.position).squeeze(2)
    projected = [
        split_heads(nn.functional.linear(x, weight, offset), attention.num_heads)
        for x, weight, offset in zip((query, level.tokens + level.position), weights, offsets)
    ]
    return projected[0], projected[1]


@queries_and_keys.register
def _(
    attention: ConditionalCrossAttention, aligned: AlignedQueries, level: FeatureLevel
) -> tuple[Tensor, Tensor]:
    position, target = aligned.position.squeeze(2).chunk(2, dim=-1)
    place = attention.key_position(level.position)
    content = aligned.content.squeeze(2)
    query, key = attention.contents(content, position, level.tokens, place)
    return (
        _joined(query, attention.query_target(target), attention.num_heads),
        _joined(key, place, attention.num_heads),
    )


def _joined(content: Tensor, place: Tensor, heads: int) -> Tensor:
    return torch.cat([split_heads(content, heads), split_heads(place, heads)], dim=-1)


def check_attention(model: nn.Module) -> None:
    """Raise InputError unless the attention of every decoder layer can be shown."""
    if not isinstance(model, SAMDETR):
        raise InputError(
            f"{type(model).__name__} is no {SAMDETR.__name__}: it has no decoder to look into"
        )
    for layer in _decoder_layers(model):
        kind = type(layer.cross_attention)
        if queries_and_keys.dispatch(kind) is queries_and_keys.dispatch(nn.Module):
            raise _unsupported(kind)


def _unsupported(kind: type[nn.Module]) -> InputError:
    shown = (AlignedCrossAttention, DETRCrossAttention, ConditionalCrossAttention)
    names = ", ".join(x.__name__ for x in shown)
    return InputError(
        f"{kind.__name__} reads a few points and has no map of weights to show; {names} have one"
    )
