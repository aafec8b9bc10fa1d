"""Images of any number of channels: grey, with an alpha channel that counts, multi-spectral.

Shapes: images are (H, W, C), uint8 or float32 of 0 to 255.
"""

from __future__ import annotations

import importlib.util
import os
from contextlib import suppress
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from .images import naming

BANDS = "BANDS"  # the `image_format` of images as they are stored


def image_size(file_name: str | os.PathLike[str]) -> tuple[int, int]:
    """Read width and height of an upright image, from the head of its file if Pillow reads it.

    Raises:
        ImageError: if the file is missing or no image; names it.
    """
    with naming(str(file_name)):
        try:
            with Image.open(file_name) as image:
                turned = False
                with suppress(Exception):  # a damaged EXIF block; Pillow turns a TIFF itself
                    turned = image.format != "TIFF" and image.getexif().get(0x0112) in (5, 6, 7, 8)
                stacked = image.format == "TIFF" and getattr(image, "n_frames", 1) > 1
                if not stacked or len(image.getbands()) > 1:
                    return image.size[::-1] if turned else image.size
        except UnidentifiedImageError:  # an array, or a TIFF of many bands
            pass
        height, width, _ = _channels_last(_stored(file_name, "r")).shape
        return width, height


def read_bands(file_name: str | os.PathLike[str], white: float | None = None) -> np.ndarray:
    """Read all channels of an image as they are stored.

    Args:
        file_name: a `.npy` file, a TIFF of any number of bands, which needs the package tifffile,
            or an image that Pillow reads. Channels are first or last, on the shortest axis.
        white: value that becomes 255; by default the largest of the type of the pixels.

    Returns:
        (H, W, C), uint8 where that is stored and `white` is None, else float32.

    Raises:
        ImageError: if the file is missing, damaged or no image, or has floating-point pixels and
            `white` is None; names it.
    """
    with naming(str(file_name)):
        return scaled_bands(_stored(file_name), white)


def _stored(file_name: str | os.PathLike[str], mmap_mode: Literal["r"] | None = None) -> np.ndarray:
    suffix = Path(file_name).suffix.lower()
    if suffix == ".npy":
        return np.asarray(np.load(file_name, mmap_mode, allow_pickle=False))
    if suffix in (".tif", ".tiff") and importlib.util.find_spec("tifffile"):
        import tifffile

        return np.asarray(tifffile.imread(file_name))
    return np.asarray(Image.open(file_name))


def _channels_last(pixels: np.ndarray) -> np.ndarray:
    if pixels.ndim not in (2, 3) or not pixels.size:
        raise ValueError(f"it is an array of {pixels.shape}, expected (H, W) or (H, W, C)")
    if pixels.ndim == 2:
        return pixels[..., None]
    return pixels.transpose(1, 2, 0) if pixels.shape[0] < pixels.shape[2] else pixels


def scaled_bands(pixels: np.ndarray, white: float | None = None) -> np.ndarray:
    """Return the (H, W, C) image of an array of pixels; see `read_bands`.

    Raises:
        ValueError: if the array is no image, or has floating-point numbers and `white` is None.
    """
    pixels = _channels_last(pixels)
    if pixels.dtype == np.uint8 and white is None:
        return np.ascontiguousarray(pixels)
    if white is None and not np.issubdtype(pixels.dtype, np.integer):
        raise ValueError("its pixels are floating-point: set dataloader.{train,test}.mapper.white")
    white = float(white or np.iinfo(pixels.dtype).max)
    return np.nan_to_num(pixels.astype(np.float32)).clip(0, white) * np.float32(255 / white)


def composite(image: np.ndarray) -> np.ndarray:
    """Return an (H, W, 3) uint8 picture of an image: its first three channels, or the only one."""
    channels = [0, 1, 2] if image.shape[2] > 2 else [0, 0, 0]
    return np.ascontiguousarray(image[..., channels].clip(0, 255).astype(np.uint8))
