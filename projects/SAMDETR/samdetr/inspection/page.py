"""An HTML page for browsing the decoder layer by layer.

The page is a single file that needs no network: pictures are data URIs, and its content security
policy forbids anything else. File and class names are inserted as JSON, never as HTML.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from PIL import Image

from .drawing import COLOUR_MAP
from .views import ImageView, MapView

TEMPLATE = Path(__file__).with_name("page.html")
PLACEHOLDER = "DATA"  # of the JSON in the template
QUALITY = 85  # of the pictures, as JPEG
DIGITS = 5  # of coordinates


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
