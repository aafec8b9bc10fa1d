"""The page: everything that was seen in one HTML file, to be looked at layer by layer.

The file needs no network and no other file: pictures are data URIs, and its policy lets a browser
load nothing else. Names from data sets and files are data to it, and are never read as HTML.
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
from .views import ImageView, LayerView, MapView, QueryView

TEMPLATE = Path(__file__).with_name("page.html")
PLACE = "DATA"  # of the data in the template
QUALITY = 85  # of pictures, as JPEG
DIGITS = 5  # of coordinates


def write_page(path: Path, images: Sequence[ImageView]) -> None:
    """Write the page of some images.

    Args:
        path: of the file, `.html`.
        images: at least one.
    """
    colours = colormaps[COLOUR_MAP](np.arange(256), bytes=True)[:, :3]
    data = {"colours": colours.tolist(), "images": [_image(x) for x in images]}
    # "<" would let a name end the element that holds the data.
    text = json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    path.write_text(TEMPLATE.read_text("utf-8").replace(PLACE, text, 1), "utf-8")


def _image(view: ImageView) -> dict[str, Any]:
    file = io.BytesIO()
    Image.fromarray(view.picture).save(file, "JPEG", quality=QUALITY)
    height, width = view.picture.shape[:2]
    return {
        "name": view.name,
        "picture": "data:image/jpeg;base64," + _text(file.getvalue()),
        "width": width,
        "height": height,
        "objects": [[_query(x) for x in views] for views in view.objects],
    }


def _query(view: QueryView) -> dict[str, Any]:
    layers = [_layer(x) for x in view.layers]
    return {"model": view.model, "query": view.query, "label": view.label, "layers": layers}


def _layer(view: LayerView) -> dict[str, Any]:
    return {
        "level": view.level,
        "score": view.score,
        "reference": _list(view.reference),
        "predicted": _list(view.predicted),
        "maps": [_map(x) for x in view.maps],
    }


def _map(view: MapView) -> dict[str, Any]:
    peak = float(view.weights.max())
    height, width = view.weights.shape
    return {
        "name": view.name,
        "peak": peak,
        "height": height,
        "width": width,
        # A byte per cell, row by row: 255 is the highest weight.
        "cells": _text(np.rint(255 * view.weights / peak).astype(np.uint8).tobytes()),
        "points": _list(view.points),
        "sharpness": _list(view.sharpness),
    }


def _list(x: np.ndarray | None) -> list | None:
    return None if x is None else x.astype(np.float64).round(DIGITS).tolist()


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
