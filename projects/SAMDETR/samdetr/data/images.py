"""Reading and resizing of images.

The rule for turning a Pillow image into RGB, `upright` and `as_rgb`, needs only Pillow and NumPy:
`tools/onnx_demo.py`, which runs without this package, repeats it.

Units: pixels. Images are (H, W, 3) uint8.
"""

import logging
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import numpy as np
import torch
from detectron2.data import transforms as T
from detectron2.data.detection_utils import convert_PIL_to_numpy
from detectron2.utils.file_io import PathManager
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ..errors import ImageError

ORIENTATION = 0x0112  # the EXIF tag
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def upright(image: Image.Image) -> Image.Image:
    """Rotate an image as its EXIF orientation says."""
    try:
        turn = TURNS.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # Pillow raises errors of many types for a damaged EXIF block
        return image
    return image if turn is None else image.transpose(turn)


def usual_white(image: Image.Image) -> float:
    """Return the value that is white in the full depth of an image; infinity if that is unknown."""
    if image.mode == "F":
        return math.inf
    return 65535 if image.mode.startswith("I") else 255  # Pillow reads deep colours as 8 bits


def as_rgb(image: Image.Image, white: float | None = None) -> Image.Image:
    """Convert an image of any mode to RGB, without its transparency.

    Args:
        white: value that becomes 255, by default `usual_white`. Images of 8 bits ignore a value
            above 255.

    Raises:
        ValueError: if the pixels are floating-point numbers and `white` is None.
    """
    usual = usual_white(image)
    if usual == 255:  # palettes go by RGBA: Pillow warns of transparent ones
        image = image.convert("RGBA" if image.mode == "P" else "RGB").convert("RGB")
        if white is None or white >= usual:
            return image
    white = float(white or usual)
    if white == math.inf:
        raise ValueError(
            "its pixels are floating-point numbers, whose range is unknown: the mapper's `white`, "
            "e.g. dataloader.train.mapper.white=1.0, sets the value of white"
        )
    levels = np.nan_to_num(np.asarray(image).clip(0, white)) * (256 / white)
    return Image.fromarray(levels.clip(0, 255).astype(np.uint8)).convert("RGB")


def read_image(
    file_name: str,
    image_format: str = "RGB",
    size: tuple[int | None, int | None] = (None, None),
    white: float | None = None,
) -> np.ndarray:
    """Read an image of any mode in the frame that its annotations refer to.

    Cameras store photographs rotated, with an EXIF tag for the orientation. Annotations nearly
    always refer to the upright image, which is returned, unless `size` is that of the image as
    stored.

    Args:
        image_format: a format of Detectron2, such as "RGB" or "BGR".
        size: width and height according to the annotations, if known.
        white: as for `as_rgb`.

    Returns:
        (H, W, 3) uint8. The first frame of an animation.

    Raises:
        ImageError: if the file is missing, damaged or no image, has more than twice
            `PIL.Image.MAX_IMAGE_PIXELS`, or is refused by `as_rgb`; names the file.
    """
    with _opened(file_name) as stored:
        turned = upright(stored)
        image = stored if stored.size == size != turned.size else turned
        return convert_PIL_to_numpy(as_rgb(image, white), image_format)


def convert_image(
    image: Image.Image, image_format: str = "RGB", white: float | None = None
) -> np.ndarray:
    """Convert a Pillow image of any mode to (H, W, 3) uint8, without rotating it.

    Raises:
        ImageError: if its file is damaged, or it is refused by `as_rgb`.
    """
    with _naming(getattr(image, "filename", "") or "from Pillow"):
        return convert_PIL_to_numpy(as_rgb(image, white), image_format)


def warn_of_narrow_ranges(files: Sequence[str], count: int = 8) -> None:
    """Warn if images use no more than a quarter of their depth, or values above it.

    Args:
        files: images; at most `count` are read, evenly spaced. Those that training refuses are
            passed over.
    """
    largest: dict[float, int] = {}
    looked_at = files[:: max(1, -(-len(files) // count))]
    for file in looked_at:
        with suppress(ImageError), _opened(file) as image:
            usual = usual_white(image)
            pixels = np.asarray(image if usual > 255 else as_rgb(image))
            largest[usual] = max(largest.get(usual, 0), int(pixels.max()))
    for usual, value in largest.items():
        if 0 < value <= usual // 4 or usual < value:
            bits = value.bit_length()
            logging.getLogger(__name__).warning(
                f"the largest value of {len(looked_at)} training images is {value}, and {usual} is "
                f"white: if they have {bits} bits, set dataloader.train.mapper.white={2**bits - 1}"
            )


@contextmanager
def _opened(file_name: str) -> Iterator[Image.Image]:
    with _naming(file_name), PathManager.open(file_name, "rb") as file:
        image = Image.open(file)
        image.load()
        yield image


@contextmanager
def _naming(image: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # Pillow raises errors of many types for damaged files
        reason = os.strerror(error.errno) if getattr(error, "errno", None) else str(error)
        reason = " ".join(reason.split()) or repr(error)
        raise ImageError(f"cannot read image {image}: {reason}") from error


class ResizeTransform(T.ResizeTransform):
    """Detectron2's resizing, by PyTorch instead of Pillow for bilinear interpolation of bytes.

    PyTorch's AVX2 kernel takes a third of Pillow's time at COCO's size. Few pixels differ, by one
    grey level. The result is a view of a (C, H, W) array, which needs no copy to become a tensor.
    """

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        interpolation = self.interp if interp is None else interp
        if img.dtype != np.uint8 or img.ndim != 3 or interpolation != Image.Resampling.BILINEAR:
            return super().apply_image(img, interp)
        size = self.new_h, self.new_w
        resized = F.interpolate(_maps(img)[None], size, mode="bilinear", antialias=True)
        return resized[0].permute(1, 2, 0).numpy()


def _maps(image: np.ndarray) -> Tensor:
    """Return an image as a (C, H, W) tensor; it may be read-only or have negative strides."""
    flipped = [axis for axis, stride in enumerate(image.strides) if stride < 0]
    pixels = torch.from_numpy(np.require(np.flip(image, flipped), requirements="W"))
    if flipped:
        pixels = pixels.flip(flipped)  # 30 times as fast as a copy by NumPy
    return pixels.permute(2, 0, 1)
