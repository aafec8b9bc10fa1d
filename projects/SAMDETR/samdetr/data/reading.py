"""Images of every kind as arrays: what can be read is, what cannot is one error that says why.

Units: pixels. Images are (H, W, 3) uint8.
"""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import BinaryIO, Literal

import numpy as np
from detectron2.data.detection_utils import convert_PIL_to_numpy
from detectron2.utils.file_io import PathManager
from PIL import ExifTags, Image, UnidentifiedImageError

from ..errors import ImageError
from .jpeg2000 import check_blocks

# The formats of photographs. Pillow knows many more, some of which run programs (EPS).
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "AVIF")

_ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TILE_SIDES = (322, 323)  # tags of TIFF
_BYTES = {1: 1, 3: 2, 4: 4, 6: 1, 8: 2, 9: 4, 16: 8, 17: 8}  # of TIFF's types of integers


def read_image(
    file_name: str, image_format: str = "RGB", size: tuple[int | None, int | None] = (None, None)
) -> np.ndarray:
    """Reads an image of any mode but floating point, in the frame its annotations are in.

    A photograph can be stored rotated, with a note (EXIF) of how to turn it. Annotations nearly
    always belong to the turned image, and so does what this returns. Where `size` is that of the
    image as stored and not as turned, they belong to the stored one, and the note is ignored.
    (Pillow turns a TIFF itself: what is stored in one is not seen.)

    Args:
        image_format: a format of Detectron2, such as "RGB" or "BGR".
        size: width and height by the annotations, if known.

    Returns:
        (H, W, 3) uint8. Of an animation it is the first picture. Transparency is ignored, and 16
        bits per pixel are cut to the upper 8.

    Raises:
        ImageError: the file is missing or not a whole image of `FORMATS`, or the image has more
            pixels than `PIL.Image.MAX_IMAGE_PIXELS` (89 million, None for any number), or tiles of
            more, which is seen before they are decoded; names the file, the cause is attached.
    """
    with _naming(file_name):
        stored = _load(file_name)
        turned = _turned(stored)
        image = stored if stored.size == size != turned.size else turned
        return _pixels(image, image_format)


def convert_image(image: Image.Image, image_format: str = "RGB") -> np.ndarray:
    """The (H, W, 3) uint8 pixels of an image of any mode; arguments as in `read_image`.

    Raises:
        ImageError: it is of a file that is not whole, or its pixels are floating-point numbers.
    """
    with _naming(getattr(image, "filename", "") or "of Pillow"):
        return _pixels(image, image_format)


@contextmanager
def _naming(image: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # broken files make Pillow raise errors of many types
        reason = " ".join(str(error).split()) or repr(error)
        raise ImageError(f"cannot read image {image}: {reason}") from error


def _load(file_name: str) -> Image.Image:
    # To open a pipe is to wait for somebody who writes to it.
    if os.path.exists(file_name) and not os.path.isfile(file_name):
        raise ValueError("it is not a file")
    with PathManager.open(file_name, "rb") as file:
        try:
            image = Image.open(file, formats=_formats())
        except UnidentifiedImageError as error:
            raise ValueError(f"it is none of {', '.join(_formats())}") from error
        except Image.DecompressionBombError as error:  # of twice Pillow's limit
            raise ValueError(
                f"PIL.Image.MAX_IMAGE_PIXELS={Image.MAX_IMAGE_PIXELS}: {error}"
            ) from error
        _check_pixels(image.width * image.height, f"{image.width} x {image.height} pixels")
        if image.format == "TIFF":
            pixels = _tile_pixels(file)
            _check_pixels(pixels, f"tiles of {pixels} pixels")
        elif image.format == "JPEG2000":
            check_blocks(file)
        image.load()
    return image


@cache
def _formats() -> list[str]:
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _check_pixels(pixels: int, what: str) -> None:
    """Pillow warns at its limit, and refuses what is twice as large."""
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and pixels > limit:
        raise ValueError(f"it has {what}, and PIL.Image.MAX_IMAGE_PIXELS is {limit}")


def _tile_pixels(file: BinaryIO) -> int:
    """The pixels of a tile of a TIFF, which is decoded whole however small the image; 0 for none.

    Of two entries for the same, libtiff, which decodes, takes the first and Pillow the last. So the
    directory is read here, and the largest counts.
    """
    file.seek(0)
    head = file.read(16)
    order: Literal["little", "big"] = "little" if head[:2] == b"II" else "big"
    large = 43 in head[2:4]  # BigTIFF
    word = 8 if large else 4
    file.seek(int.from_bytes(head[word : 2 * word], order))
    count = int.from_bytes(file.read(8 if large else 2), order)
    sides = dict.fromkeys(_TILE_SIDES, 0)
    for _ in range(count):
        if not (entry := file.read(4 + 2 * word)):
            break
        tag, kind = (int.from_bytes(entry[x : x + 2], order) for x in (0, 2))
        if tag in sides:
            start = 4 + word
            value = int.from_bytes(entry[start : start + _BYTES.get(kind, 0)], order)
            sides[tag] = max(sides[tag], value)
    return math.prod(sides.values())


def _turned(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF block says; ImageOps.exif_transpose fails on odd blocks."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # an unreadable block is no reason to lose the image
        return image
    if orientation not in _ORIENTATIONS:
        return image
    return image.transpose(_ORIENTATIONS[orientation])


def _pixels(image: Image.Image, image_format: str) -> np.ndarray:
    return convert_PIL_to_numpy(_eight_bits(image), image_format)


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit grey as 8-bit grey: Pillow's own conversion would cut everything above 255."""
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, of which none is known as white")
    if image.mode != "I" and not image.mode.startswith("I;16"):
        return image
    return Image.fromarray((np.asarray(image).clip(0, 65535) // 256).astype(np.uint8))
