"""Gradients in float64 against finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from torch import Tensor, nn

from conftest import (
    make_aligned,
    make_boxes,
    make_level,
    make_predictions,
    make_pyramid,
    make_queries,
    make_targets,
    randomize_statistics,
)
from finite_differences import assert_module_right, assert_right, double
from samdetr.modeling import (
    AlignedCrossAttention,
    AnchoredPredictionHead,
    AverageResampler,
    BoxDeformableCrossAttention,
    ConcatenatedCrossAttention,
    ConditionalCrossAttention,
    DABPredictionHead,
    DABQueryPosition,
    DeformableCrossAttention,
    DeformableSelfAttention,
    Denoising,
    DenseAttention,
    DETRCrossAttention,
    DETRPredictionHead,
    Encoder,
    EncoderLayer,
    FastestPooler,
    Gate,
    GatherPooler,
    GaussianPrior,
    HungarianMatcher,
    ImageKeypointResampler,
    KeypointResampler,
    LocatedCrossAttention,
    MaxResampler,
    PaddingPrior,
    PredictionHead,
    RoIAlignPooler,
    SelfAttention,
    SemanticsAligner,
    SeparablePooler,
    SetCriterion,
    SoftmaxCriterion,
    SoftmaxMatcher,
    SoftmaxPredictionHead,
    UnpaddedPooler,
)
from samdetr.modeling.backbone import FoldedConv2d
from samdetr.modeling.ops import attend as attend_module
from samdetr.modeling.ops.attend import TiledAttention
from samdetr.modeling.ops.deformable import EmbeddingBagSampling, ShortSoftmax
from samdetr.modeling.position import sine
from samdetr.structures import AlignedQueries, FeatureLevel, Predictions, Queries, Targets

pytestmark = pytest.mark.slow

DIM, HEADS, REGION = 16, 4, 3
RESAMPLERS = [KeypointResampler, ImageKeypointResampler, AverageResampler, MaxResampler]
POOLERS = [RoIAlignPooler, SeparablePooler, GatherPooler, FastestPooler, UnpaddedPooler]


def level_of() -> FeatureLevel:
    return double(make_level(4, 5, [(4, 5), (3, 2)], DIM))


def aligned_of(num_points: int) -> AlignedQueries:
    return double(make_aligned(num_points, DIM, DIM, num_queries=3))


def resampler_of(kind: type[nn.Module]) -> nn.Module:
    if not issubclass(kind, KeypointResampler):
        return kind()
    return kind(DIM, num_points=3, region_size=REGION, reduced_dim=4, hidden_dims=(8, 8))


def aligner_of(pooler: type[nn.Module], resampler: type[nn.Module]) -> SemanticsAligner:
    sampler = resampler_of(resampler)
    gates = (Gate(DIM, sampler.num_points) for _ in range(2))
    return SemanticsAligner(pooler(REGION), sampler, *gates)


@pytest.mark.parametrize(
    ("pooler", "resampler"),
    [*((x, KeypointResampler) for x in POOLERS), *((FastestPooler, x) for x in RESAMPLERS[1:])],
)
def test_aligned_contents_keypoints_and_descriptors(pooler, resampler):
    level, boxes = level_of(), make_boxes(2, 3).double()

    def align(aligner, x, tokens):
        aligned = aligner(x, x, boxes, level._replace(tokens=tokens))
        return aligned.content, aligned.points + 0 * x.sum(), aligned.descriptor + 0 * x.sum()

    aligner = aligner_of(pooler, resampler)
    assert_module_right(aligner, align, torch.randn(2, 3, DIM), level.tokens)


def strip_inputs(shared: bool) -> list[Tensor]:
    """Query, key and value, and biases of columns and rows, of two images of 4 x 5 cells."""
    shape = (2, HEADS, 3)
    keys = torch.randn(2, 1 if shared else HEADS, 20, 6)
    value = torch.randn(2, HEADS, 20, 5)
    return [torch.randn(*shape, 6), keys, value, torch.randn(*shape, 5), torch.randn(*shape, 4)]


@pytest.mark.parametrize(
    ("padded", "shared", "rows_at_once"), [(True, True, 3), (True, False, 1), (False, True, 100)]
)
def test_attention_in_strips(padded, shared, rows_at_once, monkeypatch):
    monkeypatch.setattr(attend_module, "CPU_SCORES", rows_at_once * 5 * HEADS * 3)

    def attend(query, key, value, columns, rows):
        if padded:
            outside = torch.zeros(2, 1, 1, 5, dtype=torch.bool)
            outside[1, ..., 3:] = True
            columns = columns.masked_fill(outside, -math.inf)
        return TiledAttention.apply(query, key, value, columns, rows)

    assert_right(attend, *strip_inputs(shared), exhaustive=shared and padded and rows_at_once == 3)


def test_the_gaussian_prior():
    level, aligned, prior = level_of(), aligned_of(HEADS), GaussianPrior(DIM, HEADS)

    def weights(prior, points, descriptor):
        bias = prior(aligned._replace(points=points, descriptor=descriptor), level)
        return bias.dense().exp()  # which is 0 on padding

    assert_module_right(prior, weights, aligned.points, aligned.descriptor)


CROSS_ATTENTIONS = {
    "aligned": (AlignedCrossAttention, HEADS),
    "few keypoints": (lambda *x: ConcatenatedCrossAttention(DIM, HEADS, 2, x[2]), 2),
    "many keypoints": (lambda *x: ConcatenatedCrossAttention(DIM, HEADS, 8, x[2]), 8),
    "plain": (DETRCrossAttention, 1),
}


@pytest.mark.parametrize(
    ("name", "gaussian"),
    [*((name, False) for name in CROSS_ATTENTIONS), ("aligned", True), ("plain", True)],
)
def test_cross_attention(name, gaussian):
    kind, num_points = CROSS_ATTENTIONS[name]
    prior = GaussianPrior(DIM, HEADS) if gaussian else PaddingPrior()
    attention, level, aligned = kind(DIM, HEADS, prior), level_of(), aligned_of(num_points)
    points = torch.rand(2, 3, HEADS, 2)  # where the Gaussians of all heads lie

    def attend(attention, content, position, points, descriptor, tokens, place):
        queries = AlignedQueries(content, position, points, descriptor)
        out = attention(queries, level._replace(tokens=tokens, position=place))
        return out + 0 * (points.sum() + descriptor.sum())

    inputs = aligned.content, aligned.position, points, aligned.descriptor
    assert_module_right(attention, attend, *inputs, level.tokens, level.position)


@pytest.mark.parametrize("kind", [ConditionalCrossAttention, LocatedCrossAttention])
def test_conditional_cross_attention(kind):
    level, attention = level_of(), kind(DIM, HEADS, PaddingPrior())

    def attend(attention, content, position, tokens, place):
        queries = AlignedQueries(content, position, content, content)
        return attention(queries, level._replace(tokens=tokens, position=place))

    content, position = torch.randn(2, 3, 1, DIM), torch.randn(2, 3, 1, 2 * DIM)
    assert_module_right(attention, attend, content, position, level.tokens, level.position)


def test_self_attention_with_a_mask():
    mask = torch.zeros(2, 1, 5, 5, dtype=torch.float64)
    mask[..., :2, 3:] = -math.inf
    inputs = torch.randn(2, 2, 5, DIM)
    assert_module_right(SelfAttention(DIM, HEADS), lambda f, x, p: f(x, p, mask), *inputs)


@pytest.mark.parametrize(
    "attention", [DenseAttention(DIM, HEADS), DeformableSelfAttention(DIM, HEADS, 2, 3)]
)
def test_the_encoder(attention):
    levels = [double(level) for level in make_pyramid(DIM)]

    def encode(encoder, fine, coarse):
        tokens = zip(levels, (fine, coarse))
        return tuple(x.tokens for x in encoder([x._replace(tokens=y) for x, y in tokens]))

    encoder = Encoder(EncoderLayer(attention, DIM, 8), 1)
    assert_module_right(encoder, encode, *(level.tokens for level in levels))


SIZES = [(3, 4), (1, 5), (2, 1), (1, 1)]


@pytest.mark.parametrize("chunk", [1, 65_536])
def test_deformable_sampling_inside_of_maps_and_around_them(chunk, monkeypatch):
    monkeypatch.setattr("samdetr.modeling.ops.deformable.CHUNK", chunk)
    value = torch.randn(2, sum(h * w for h, w in SIZES), 2, 3)
    locations = torch.rand(2, 3, 2, len(SIZES), 4, 2) * 2 - 0.5
    assert_right(
        lambda value, places, weights: EmbeddingBagSampling.apply(value, SIZES, places, weights),
        *(value, locations, torch.randn(locations.shape[:-1])),
        exhaustive=chunk > 1,
    )


@pytest.mark.parametrize("kind", [DeformableCrossAttention, BoxDeformableCrossAttention])
def test_deformable_cross_attention(kind):
    levels = [double(level) for level in make_pyramid(DIM)]

    def attend(attention, content, boxes, tokens):
        query = AlignedQueries(content, content, boxes[:, :, None, :2], boxes)
        return attention(query, [levels[0]._replace(tokens=tokens), levels[1]])

    inputs = torch.randn(2, 3, 1, DIM), make_boxes(2, 3), levels[0].tokens
    assert_module_right(kind(DIM, HEADS, 2, 3), attend, *inputs)


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_a_short_softmax(scale):
    assert_right(ShortSoftmax.apply, scale * torch.randn(3, 4, 6), exhaustive=True)


def targets_of(*counts: int) -> Targets:
    targets = make_targets(counts)
    return targets._replace(boxes=targets.boxes.double())


CRITERIA = {
    "focal": SetCriterion(HungarianMatcher()),
    "cross-entropy": SetCriterion(HungarianMatcher(), gamma=0.0),
    "linear focus": SetCriterion(HungarianMatcher(), alpha=0.4, gamma=1.0),
    "softmax": SoftmaxCriterion(SoftmaxMatcher()),
}


@pytest.mark.parametrize(
    ("name", "counts"), [*((name, (3, 1)) for name in CRITERIA), ("focal", (0, 0))]
)
def test_losses_by_logits_and_boxes(name, counts):
    predictions, targets = make_predictions(2), targets_of(*counts)

    def losses(logits, boxes):
        named = CRITERIA[name](Predictions(logits, boxes), targets)
        return torch.stack([*named.values()]) + 0 * boxes.sum()

    assert_right(losses, *predictions, exhaustive=True)


def test_losses_of_denoising_queries_by_logits_and_boxes():
    predictions, targets = make_predictions(2), targets_of(3, 1)
    known = torch.tensor([[0, 1, 2], [0, -1, -1]])

    def losses(logits, boxes):
        named = CRITERIA["focal"](Predictions(logits, boxes), targets, known)
        assert len(named) == 12
        return torch.stack([*named.values()])

    assert_right(losses, *predictions, exhaustive=True)


HEADS_OF_DECODERS = [PredictionHead, DETRPredictionHead, AnchoredPredictionHead]
HEADS_OF_DECODERS += [DABPredictionHead, SoftmaxPredictionHead]


@pytest.mark.parametrize("kind", HEADS_OF_DECODERS)
def test_predictions_by_queries_and_references_also_where_these_are_clamped(kind):
    reference = torch.randn(2, 3, 4)
    reference[0, 0], reference[1, 1] = 15.0, -15.0

    def predict(head, x, reference):
        logits, boxes, _ = head(x, reference)
        return logits, boxes + 0 * reference.sum()

    assert_module_right(kind(DIM, 3), predict, torch.randn(2, 3, DIM), reference)


def test_denoising_queries_by_label_embeddings_and_matching_queries():
    denoising, targets = Denoising(5, DIM, num_groups=2), targets_of(3, 1)

    def add(denoising, content, reference):
        torch.manual_seed(3)  # the same noise at every call
        queries = denoising(Queries(content, reference), targets)
        return queries.content + 0 * reference.sum(), queries.reference + 0 * content.sum()

    assert_module_right(denoising, add, *make_queries(2, 3, DIM)[:2])


def test_sine_embeddings_and_positions_of_boxes_that_move():
    position = DABQueryPosition(DIM)
    assert_right(lambda points: sine(points, DIM, temperature=20.0), torch.rand(3, 4, 2))
    assert_module_right(position, lambda f, boxes: f(boxes), make_boxes(2, 3))
    assert_right(position.target, torch.randn(2, 3, DIM), make_boxes(2, 3))


@pytest.mark.parametrize("size", [(5, 6), (4, 1)])
def test_convolutions_with_folded_norms(size):
    norm = randomize_statistics(FrozenBatchNorm2d(4))
    plain = Conv2d(3, 4, 3, stride=2, padding=1, bias=True, norm=norm)
    assert_module_right(FoldedConv2d(plain), lambda f, x: f(x), torch.randn(2, 3, *size))
