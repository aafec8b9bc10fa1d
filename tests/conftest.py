"""Makers of small inputs and small models for the tests of the model's parts.

Unless told otherwise a batch has two images of different sizes, the second of them padded, and in
ground truth the second has no objects.

`HYPOTHESIS_PROFILE=nightly` tries 1,000 examples of every property, new ones each time.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
import setuptools  # noqa: F401  # first of all that imports distutils, which it replaces
import torch
from detectron2.config import LazyCall as L
from detectron2.config import LazyConfig, instantiate
from detectron2.structures import Boxes, Instances
from hypothesis import HealthCheck, settings
from omegaconf import OmegaConf
from torch import Tensor, nn

from samdetr.modeling import GaussianPrior, mini_resnet
from samdetr.structures import AlignedQueries, FeatureLevel, Predictions, Queries, Targets

MODELS = Path(__file__).parents[1] / "configs" / "common" / "models"
VARIANTS = ("sam_detr", "sam_detr_smca", "detr")
NUM_CLASSES = 5
torch._dynamo.config.fake_tensor_cache_enabled = False  # torch.export takes a sixth less

# Machines are slow at times, and the seed is set anew for each test, not for each example.
LENIENT = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
COMMON = settings(deadline=None, database=None, suppress_health_check=LENIENT)
settings.register_profile("default", COMMON, max_examples=50, derandomize=True)
settings.register_profile("nightly", COMMON, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, so that in the end no process waits long for another."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def same_numbers_on_every_machine():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture
def shapes_only(monkeypatch):
    """Skip initial values; the meta device, on which there are none, takes a second for them."""
    for name in ("uniform_", "normal_"):
        monkeypatch.setattr(torch.Tensor, name, lambda x, *args, **kwargs: x)


def make_level(
    height: int = 5,
    width: int = 7,
    valid: Sequence[tuple[int, int]] | None = None,
    dim: int = 32,
) -> FeatureLevel:
    """A level of random tokens and positions.

    Args:
        height, width: cells.
        valid: (height, width) of the unpadded part of each image.
        dim: channels.
    """
    valid = valid or [(height, width), ((height + 1) // 2, (width + 1) // 2)]
    padding = torch.ones(len(valid), height, width, dtype=torch.bool)
    for mask, (rows, columns) in zip(padding, valid):
        mask[:rows, :columns] = False
    tokens, position = torch.randn(2, len(valid), height * width, dim)
    return FeatureLevel(tokens, position, padding.flatten(1), (height, width))


def make_pyramid(dim: int = 32) -> list[FeatureLevel]:
    """Two levels of the same images, fine to coarse."""
    fine = make_level(6, 8, [(6, 8), (4, 5)], dim)
    return [fine, make_level(3, 4, [(3, 4), (2, 3)], dim)]


def pad_level(level: FeatureLevel, rows: int, columns: int) -> FeatureLevel:
    """The same level with more padded cells below and on the right, full of other numbers."""
    height, width = level.size
    batch, _, dim = level.tokens.shape
    bigger = make_level(height + rows, width + columns, [(0, 0)] * batch, dim)

    def pasted(small: Tensor, canvas: Tensor) -> Tensor:
        canvas = canvas.unflatten(1, bigger.size).clone()
        canvas[:, :height, :width] = small.unflatten(1, level.size)
        return canvas.flatten(1, 2)

    return FeatureLevel(*map(pasted, level[:3], bigger[:3]), bigger.size)


def make_boxes(batch: int = 2, num_queries: int = 5) -> Tensor:
    """Boxes as references give them, some of them reaching out of the image."""
    return torch.randn(batch, num_queries, 4).sigmoid()


def make_queries(batch: int = 2, num_queries: int = 5, dim: int = 32) -> Queries:
    return Queries(torch.randn(batch, num_queries, dim), torch.randn(batch, num_queries, 4))


def make_aligned(
    num_points: int = 8, descriptor_dim: int = 32, dim: int = 32, num_queries: int = 5
) -> AlignedQueries:
    """Aligned queries of two images with keypoints anywhere in the image."""
    shape = (2, num_queries, num_points)
    content, position = torch.randn(2, *shape, dim)
    return AlignedQueries(
        content, position, torch.rand(*shape, 2), torch.randn(2, num_queries, descriptor_dim)
    )


def make_predictions(depth: int = 3, batch: int = 2, num_queries: int = 6) -> Predictions:
    shape = (depth, batch, num_queries)
    return Predictions(torch.randn(*shape, NUM_CLASSES), torch.randn(*shape, 4).sigmoid())


def make_targets(counts: Sequence[int] = (3, 0)) -> Targets:
    """Ground truth inside the image."""
    size = torch.rand(len(counts), max([1, *counts]), 2) * 0.5 + 0.1
    centre = size / 2 + (1 - size) * torch.rand_like(size)
    labels = torch.randint(NUM_CLASSES, size.shape[:2])
    return Targets(labels, torch.cat([centre, size], dim=-1), list(counts))


def make_instances(height: int, width: int, count: int) -> Instances:
    """Ground truth of an image as a Detectron2 loader gives it."""
    corners = torch.rand(count, 2, 2).sort(dim=1).values * torch.tensor([width, height])
    classes = torch.randint(NUM_CLASSES, (count,))
    return Instances((height, width), gt_boxes=Boxes(corners.flatten(1)), gt_classes=classes)


def make_batch(
    sizes: Sequence[tuple[int, int]] = ((48, 64), (40, 33)), counts: Sequence[int] = (3, 0)
) -> list[dict]:
    """Detectron2 inputs with ground truth, for (height, width) of each image."""
    return [
        {
            "image": torch.randint(256, (3, *size), dtype=torch.uint8),
            "instances": make_instances(*size, count),
        }
        for size, count in zip(sizes, counts)
    ]


def make_config(variant: str = "sam_detr", **overrides):
    """A model config of `configs/common/models`, shrunk: stride 8, 64 channels, three layers.

    Args:
        variant: one of VARIANTS.
        overrides: values by key, "__" standing for a dot.
    """
    model = LazyConfig.load(str(MODELS / f"{variant.removesuffix('_smca')}.py")).model
    model.backbone = L(mini_resnet)(out_features=["res3"])
    model.neck.in_channels = dict(res3=96)
    model.neck.dim = 64
    model.encoder.num_layers = 1
    model.encoder.layer.hidden_dim = model.decoder.layer.hidden_dim = 32
    model.decoder.levels = [0] * 3
    model.num_classes = NUM_CLASSES
    model.num_queries = 12
    if variant.startswith("sam_detr"):
        model.decoder.layer.aligner.resampler.update(reduced_dim=8, hidden_dims=[32, 32])
    if variant.endswith("_smca"):
        model.decoder.layer.cross_attention.prior = L(GaussianPrior)(
            descriptor_dim=32, num_points=8
        )
    for key, value in overrides.items():
        OmegaConf.update(model, key.replace("__", "."), value)
    return model


def shallow_with_two_levels(model):
    """The model config of a mini SAM-DETR++ without its coarsest level, with one decoder layer."""
    model.backbone.out_features = ["res3", "res4"]
    del model.neck.in_channels["res5"]
    model.encoder.layer.attention.num_levels = 2
    model.decoder.levels = [1]
    return model


def make_model(variant: str = "sam_detr", **overrides) -> nn.Module:
    """The model of `make_config`."""
    return instantiate(make_config(variant, **overrides))


def randomize(module: nn.Module, std: float = 0.2) -> nn.Module:
    """The module with noise on every parameter, so that no initial zero hides a mistake."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=std)
    return module


def randomize_statistics(module: nn.Module) -> nn.Module:
    """The module with frozen batch norms that do something."""
    for name, buffer in module.named_buffers():
        if name.endswith(("weight", "running_var")):
            buffer.uniform_(0.5, 1.0)
        else:
            buffer.normal_(std=0.1)
    return module


def assert_gradients_reach_all(module: nn.Module) -> None:
    """Every parameter has a finite gradient, and every matrix one that is not zero."""
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.dim() < 2 or parameter.grad.any(), name
