"""Figures 3 and 5 of the paper, and an HTML page for browsing the decoder layer by layer.

The page is a single file that needs no network: pictures are data URIs, and its content security
policy forbids anything else. File and class names are inserted as JSON, never as HTML.

Units: boxes and points are fractions of the image.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .views import ImageView, LayerView, MapView, QueryView

try:
    from matplotlib import colormaps
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Ellipse, Rectangle
    from matplotlib.patheffects import withStroke
except ModuleNotFoundError as error:
    raise ImportError(f"drawing needs {error.name}: run `pip install samdetr[draw]`") from error

COLOUR_MAP = "plasma"
OPACITY = 0.8  # of the peak of a map; proportional to the square root of the weight
REFERENCE, PREDICTED, KEYPOINT, GAUSSIAN = "red", "white", "cyan", "white"
PANEL, TITLE, LETTER = 1.3, 0.25, 0.063  # inches: longer side of a panel, a line, a letter
DPI = 100
RIM = withStroke(linewidth=1.6, foreground="black")  # keeps lines visible on bright images
MAX_REACH = 10.0  # in image sizes, for flat Gaussians
TEMPLATE = Path(__file__).with_name("page.html")
PLACEHOLDER = "DATA"  # of the JSON in the template
QUALITY = 85  # of the pictures in the page, as JPEG
DIGITS = 5  # of coordinates in the page


def draw_layers(view: ImageView) -> Figure:
    """Draw figure 3: a row per query and model, keypoints and attention of each decoder layer."""
    rows = [query for views in view.objects for query in views]
    names = [[x.model, f"query {x.query}", _class(x, x.layers[-1])] for x in rows]
    depth = max(len(query.layers) for query in rows)
    titles = [y for index in range(depth) for y in (f"layer {index + 1}", "attention")]
    figure, axes = _grid(view.picture, names, titles)
    for line, query in zip(axes, rows):
        for axis, beside, layer in zip(line[::2], line[1::2], query.layers):
            _draw_keypoints(axis, view.picture, layer)
            _draw_map(beside, view.picture, layer.maps[0], layer)
    return figure


def draw_heads(picture: np.ndarray, views: Sequence[QueryView]) -> Figure:
    """Draw figure 5: a row per model and decoder layer, a column per head.

    The views are of one object in a (height, width, 3) uint8 RGB picture, one by each model.
    """
    names, layers = [], []
    for query in views:
        for index, layer in enumerate(query.layers):
            height, width = layer.maps[0].weights.shape
            name = [f"{query.model}, layer {index + 1}", f"query {query.query}"]
            cells = f"level {layer.level}, {width} x {height} cells"
            names.append([*name, _class(query, layer), cells])
            layers.append(layer)
    titles = max(([x.name for x in layer.maps] for layer in layers), key=len)
    figure, axes = _grid(picture, names, ["keypoints", *titles])
    for line, layer in zip(axes, layers):
        _draw_keypoints(line[0], picture, layer)
        for axis, shown in zip(line[1:], layer.maps):
            _draw_map(axis, picture, shown, layer)
            _draw_points(axis, picture, shown)
    return figure


def _grid(
    picture: np.ndarray, names: Sequence[Sequence[str]], titles: Sequence[str]
) -> tuple[Figure, np.ndarray]:
    """Create a grid of panels with a name beside each row and a title above each column."""
    height, width = np.array(picture.shape[:2]) / max(picture.shape[:2]) * PANEL
    left = LETTER * (2 + max(len(line) for lines in names for line in lines))
    size = left + width * len(titles), TITLE + height * len(names)
    figure = Figure(figsize=size)
    axes = figure.subplots(len(names), len(titles), squeeze=False)
    figure.subplots_adjust(
        left=left / size[0], right=1, bottom=0, top=1 - TITLE / size[1], wspace=0.03, hspace=0.03
    )
    for axis in axes.flat:
        axis.set_axis_off()
    place = dict(ha="right", va="center", fontsize=7, parse_math=False)
    for axis, lines in zip(axes[:, 0], names):
        axis.text(-0.05, 0.5, "\n".join(lines), transform=axis.transAxes, **place)
    for axis, title in zip(axes[0], titles):
        axis.set_title(title, fontsize=8)
    return figure, axes


def _class(query: QueryView, layer: LayerView) -> str:
    return f"class {query.label}, score {layer.score:.2f}"


def _draw_keypoints(axis: Axes, picture: np.ndarray, layer: LayerView) -> None:
    """Draw the picture in colour with both boxes and all keypoints."""
    _show(axis, picture)
    _outline(axis, layer.reference, picture, REFERENCE, "-")
    _outline(axis, layer.predicted, picture, PREDICTED, "--")
    _draw_points(axis, picture, layer.maps[0])


def _draw_map(axis: Axes, picture: np.ndarray, shown: MapView, layer: LayerView) -> None:
    """Draw the attention over the grey picture, its peak weight and the reference box."""
    _show(axis, np.asarray(Image.fromarray(picture).convert("L").convert("RGB")))
    share = shown.weights / shown.weights.max()
    colours = colormaps[COLOUR_MAP](share)
    colours[..., 3] = OPACITY * np.sqrt(share)
    axis.imshow(colours, extent=(0, picture.shape[1], picture.shape[0], 0), interpolation="nearest")
    _outline(axis, layer.reference, picture, REFERENCE, "-")
    peak = f"{shown.weights.max():.2f}"
    number = axis.text(0.03, 0.03, peak, transform=axis.transAxes, fontsize=6, color="white")
    number.set_path_effects([RIM])


def _show(axis: Axes, picture: np.ndarray) -> None:
    height, width = picture.shape[:2]
    axis.imshow(picture, extent=(0, width, height, 0))
    axis.set_autoscale_on(False)


def _draw_points(axis: Axes, picture: np.ndarray, shown: MapView) -> None:
    """Draw keypoints and the half-maximum contours of their Gaussians."""
    size = np.array(picture.shape[1::-1])
    for point in shown.points * size:
        axis.plot(*point, "o", color=KEYPOINT, markersize=3.5, markeredgecolor="black", mew=0.5)
    if shown.sharpness is not None:
        with np.errstate(divide="ignore"):
            reaches = np.minimum(np.sqrt(np.log(2) / shown.sharpness), MAX_REACH)
        for point, reach in zip(shown.points * size, reaches * size):
            ring = Ellipse(point, *2 * reach, fill=False, color=GAUSSIAN)
            ring.set(linewidth=0.8, path_effects=[RIM])
            axis.add_patch(ring)


def _outline(
    axis: Axes, box: np.ndarray | None, picture: np.ndarray, colour: str, style: str
) -> None:
    if box is None:
        return
    size = np.array(picture.shape[1::-1])
    start, end = box[:2] * size, box[2:] * size
    outline = Rectangle(start, *(end - start), fill=False, color=colour, linestyle=style)
    outline.set(linewidth=0.9, path_effects=[RIM])
    axis.add_patch(outline)


def write_page(path: Path, images: Sequence[ImageView]) -> None:
    """Write the page for at least one image."""
    colours = colormaps[COLOUR_MAP](np.arange(256), bytes=True)[:, :3]
    data = {"colours": colours.tolist(), "images": [_image(x) for x in images]}
    # A "<" in a name could end the element that holds the data.
    text = json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    path.write_text(TEMPLATE.read_text("utf-8").replace(PLACEHOLDER, text, 1), "utf-8")


def _image(view: ImageView) -> dict[str, Any]:
    file = io.BytesIO()
    Image.fromarray(view.picture).save(file, "JPEG", quality=QUALITY)
    height, width = view.picture.shape[:2]
    return {
        "name": view.name,
        "picture": "data:image/jpeg;base64," + _base64(file.getvalue()),
        "width": width,
        "height": height,
        "objects": _to_json(view.objects),
    }


def _to_json(value: Any) -> Any:
    """Convert nested lists of views: their fields become keys, arrays become lists."""
    if isinstance(value, MapView):
        return _map(value)
    if isinstance(value, np.ndarray):
        return value.astype(np.float64).round(DIGITS).tolist()
    if isinstance(value, list):
        return [_to_json(x) for x in value]
    if isinstance(value, tuple):  # another view
        return {name: _to_json(x) for name, x in value._asdict().items()}  # type: ignore[attr-defined]
    return value


def _map(view: MapView) -> dict[str, Any]:
    peak = float(view.weights.max())
    height, width = view.weights.shape
    cells = np.rint(255 * view.weights / peak).astype(np.uint8)  # a byte per cell, 255 is the peak
    return {
        "name": view.name,
        "peak": peak,
        "height": height,
        "width": width,
        "cells": _base64(cells.tobytes()),
        "points": _to_json(view.points),
        "sharpness": _to_json(view.sharpness),
    }


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
