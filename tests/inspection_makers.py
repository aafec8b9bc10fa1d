"""Makers of randomised models and of artificial views for the tests of the inspection."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from detectron2.config import LazyConfig, instantiate

from conftest import make_batch, randomize
from samdetr.inspection import ImageView, LayerView, MapView, QueryView, observe

MINI = Path(__file__).parents[1] / "configs" / "mini"
SIZES = ((48, 64), (40, 33))  # height and width of the images of `make_observation`


@cache
def make_mini(variant: str):
    """The randomised model of a mini config in evaluation mode; cached, do not modify."""
    model = instantiate(LazyConfig.load(str(MINI / f"{variant}.py")).model)
    return randomize(model, std=0.1).eval()


@cache
def make_observation(variant: str) -> tuple:
    """A model and its observation of two images of different sizes."""
    model = make_mini(variant)
    return model, observe(model, make_batch(SIZES))


def make_map(name: str, random: np.random.Generator, points: int, gaussian: bool) -> MapView:
    weights = random.dirichlet(np.ones(4 * 6)).reshape(4, 6).astype(np.float32)
    sharpness = random.uniform(20, 200, (points, 2)) if gaussian else None
    return MapView(name, weights, random.uniform(0.2, 0.8, (points, 2)), sharpness)


def make_query(query: int, label: str = "cat", depth: int = 3, refers: bool = True) -> QueryView:
    """A query with two heads; without references there are no keypoints and no Gaussians."""
    random = np.random.default_rng(query)
    layers = []
    for index in range(depth):
        heads = [make_map(f"head {i + 1}", random, int(refers), refers) for i in range(2)]
        layer = LayerView(
            level=depth - 1 - index,
            score=float(random.uniform()),
            reference=np.sort(random.uniform(size=(2, 2)), axis=0).ravel() if refers else None,
            predicted=np.sort(random.uniform(size=(2, 2)), axis=0).ravel(),
            maps=[make_map("all heads", random, 2 * refers, False), *heads],
        )
        layers.append(layer)
    return QueryView("model" if refers else "baseline", query, label, layers)


def make_view(name: str = "a.jpg", label: str = "cat") -> ImageView:
    """An image of 120 x 80 pixels and two objects, each seen by a model and by a baseline."""
    picture = np.random.default_rng(0).integers(256, size=(80, 120, 3), dtype=np.uint8)
    objects = [
        [make_query(n, label), make_query(n + 10, label, depth=2, refers=False)] for n in (4, 7)
    ]
    return ImageView(name, picture, objects)
