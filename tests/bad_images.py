"""Images of every kind with the pixels that should be read from them."""

from __future__ import annotations

import colorsys
import io
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import LazyConfig, instantiate
from detectron2.structures import BoxMode
from hypothesis import strategies as st
from PIL import Image

from samdetr.data import DetectionMapper

CONFIGS = Path(__file__).parents[1] / "configs"

LOSSLESS = {
    "PNG": {},
    "TIFF": {},
    "BMP": {},
    "GIF": {},
    "PPM": {},
    "JPEG2000": {},
    "WEBP": {"lossless": True, "exact": True},
}
MODES = {
    "PNG": ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"],
    "TIFF": ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I", "I;16", "I;16B"],
    "BMP": ["1", "L", "P", "RGB"],
    "GIF": ["1", "L", "P"],
    "PPM": ["1", "L", "RGB", "I"],
    "JPEG2000": ["L", "LA", "RGB", "RGBA"],
    "WEBP": ["RGB", "RGBA"],
}
KINDS = [(file_format, mode) for file_format, modes in MODES.items() for mode in modes]
IN_MEMORY = sorted({mode for _, mode in KINDS} | {"HSV", "PA"})
EXTREMES = [(1, 1), (1, 5000), (5000, 1)]

sizes = st.tuples(st.integers(1, 40), st.integers(1, 40)) | st.sampled_from(EXTREMES)
seeds = st.integers(0, 2**32 - 1)


@cache
def coco_mappers() -> dict[str, DetectionMapper]:
    """Those of the configs for COCO, "train" and "test"."""
    loaders = LazyConfig.load(str(CONFIGS / "common/data.py")).dataloader
    return {part: instantiate(loaders[part].mapper) for part in ("train", "test")}


def entry(file: Path, width: int, height: int) -> dict[str, Any]:
    """An image with a box around it."""
    box = {"bbox": [0, 0, width, height], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}
    return {"file_name": str(file), "annotations": [box]}


def make(mode: str, size: tuple[int, int], seed: int) -> tuple[Image.Image, np.ndarray]:
    """An image of noise, and its (H, W, 3) RGB by the definition of the mode."""
    random = np.random.default_rng(seed)
    width, height = size

    def noise(channels: int, high: int = 256) -> np.ndarray:
        return random.integers(0, high, (height, width, channels), dtype=np.int64)

    if mode == "1":
        bits = noise(1, 2)[..., 0].astype(bool)
        return Image.fromarray(bits), grey(bits * 255)
    if mode in ("I", "I;16", "I;16B"):
        deep = noise(1, 2**16)[..., 0]
        data = deep.astype({"I": "<i4", "I;16": "<u2", "I;16B": ">u2"}[mode]).tobytes()
        return Image.frombytes(mode, size, data), grey(deep // 256)
    channels = {"L": 1, "P": 1, "LA": 2, "PA": 2, "RGBA": 4, "CMYK": 4}.get(mode, 3)
    pixels = noise(channels)
    if mode == "LAB":
        pixels[..., 1:] = 0  # neither red nor green, neither yellow nor blue
    image = Image.frombytes(mode, size, pixels.astype(np.uint8).tobytes())
    if mode in ("P", "PA"):
        palette = random.integers(0, 256, (256, 3), dtype=np.uint8)
        image.putpalette(palette.tobytes())
        return image, palette[pixels[..., 0]]
    if mode in ("L", "LA"):
        return image, grey(pixels[..., 0])
    return image, COLOURS.get(mode, lambda x: x[..., :3])(pixels).round().clip(0, 255)


def grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[..., None], 3, 2)


def _cmyk(pixels: np.ndarray) -> np.ndarray:
    return (255 - pixels[..., :3]) * (255 - pixels[..., 3:]) / 255


def _ycbcr(pixels: np.ndarray) -> np.ndarray:
    y, blue, red = np.moveaxis(pixels - [0, 128, 128], -1, 0)
    return np.stack([y + 1.402 * red, y - 0.344136 * blue - 0.714136 * red, y + 1.772 * blue], -1)


def _hsv(pixels: np.ndarray) -> np.ndarray:
    flat = (pixels.reshape(-1, 3) / 255).tolist()
    return 255 * np.array([colorsys.hsv_to_rgb(*x) for x in flat]).reshape(pixels.shape)


def _lab(pixels: np.ndarray) -> np.ndarray:
    """sRGB of greys: CIE's lightness, then sRGB's curve."""
    lightness = pixels[..., 0] * 100 / 255
    linear = np.where(lightness > 8, ((lightness + 16) / 116) ** 3, lightness / 903.3)
    curve = np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)
    return grey(255 * curve)


COLOURS = {"CMYK": _cmyk, "YCbCr": _ycbcr, "HSV": _hsv, "LAB": _lab}


def tolerance(mode: str) -> int:
    """Grey levels that conversions of other colour spaces may round away."""
    return {"HSV": 3, "YCbCr": 2, "LAB": 2, "CMYK": 1}.get(mode, 0)


def encoded(image: Image.Image, file_format: str, **settings: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **{**LOSSLESS.get(file_format, {}), **settings})
    return buffer.getvalue()
