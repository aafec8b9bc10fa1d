"""Reading and resizing of images.

`tools/onnx_demo.py`, which runs without this package, reads images by a copy of `as_rgb`.

Units: pixels. Images are (H, W, 3) uint8.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import numpy as np
import torch
from detectron2.data import transforms as T
from detectron2.data.detection_utils import convert_PIL_to_numpy
from detectron2.utils.file_io import PathManager
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

from ..errors import ImageError

# Files that are picked from folders; a file that is named itself may have any suffix.
IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".npy",
)  # fmt: skip


def read_image(
    file_name: str, image_format: str = "RGB", size: Sequence[int] = (), white: float | None = None
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
    with naming(file_name), PathManager.open(file_name, "rb") as file:
        stored = Image.open(file)
        upright = stored.copy()
        with suppress(Exception):  # a damaged EXIF block makes Pillow raise errors of many types
            ImageOps.exif_transpose(upright, in_place=True)
        image = stored if stored.size == size != upright.size else upright
        return convert_PIL_to_numpy(as_rgb(image, white), image_format)


def convert_image(image: Image.Image, white: float | None = None) -> np.ndarray:
    """Convert a Pillow image of any mode to (H, W, 3) uint8 RGB, without rotating it.

    Raises:
        ImageError: if its file is damaged, or it is refused by `as_rgb`.
    """
    with naming(getattr(image, "filename", "") or "from Pillow"):
        return np.asarray(as_rgb(image, white))


def as_rgb(image: Image.Image, white: float | None = None) -> Image.Image:
    """Convert an image of any mode to RGB, without its transparency.

    Args:
        white: value that becomes 255; None for that of the full depth, 255 or, in greys of more
            than 8 bits, 65535. Images of 8 bits ignore a value above 255.

    Raises:
        ValueError: if the pixels are floating-point numbers and `white` is None.
    """
    deep = image.mode.startswith(("I", "F"))
    if not deep:  # palettes go by RGBA: Pillow warns of transparent ones
        image = image.convert("RGBA" if image.mode == "P" else "RGB").convert("RGB")
    if not deep and (white is None or white >= 255):
        return image
    if white is None and image.mode == "F":
        raise ValueError("its pixels are floating-point: set dataloader.{train,test}.mapper.white")
    white = float(white or 65535)
    levels = np.nan_to_num(np.asarray(image).clip(0, white)) * (256 / white)
    return Image.fromarray(levels.clip(0, 255).astype(np.uint8)).convert("RGB")


def warn_of_dark_images(files: Sequence[str], count: int = 8) -> None:
    """Warn if `count` images, evenly spaced, use a quarter of their depth or less, or exceed it."""
    largest = {255: 0, 65535: 0}
    for name in files[:: -(-len(files) // count)]:
        with suppress(Exception), PathManager.open(name, "rb") as file:  # left to the loader
            image = Image.open(file)
            full = 65535 if image.mode.startswith("I") else 255
            pixels = np.asarray(image if full > 255 else as_rgb(image))
            largest[full] = max(largest[full], int(pixels.max()))
    for full, value in largest.items():
        if 0 < value <= full // 4 or full < value:
            bits = value.bit_length()
            logging.getLogger(__name__).warning(
                f"the largest value in a few training images is {value}, and {full} is white: "
                f"if they have {bits} bits, set dataloader.train.mapper.white={2**bits - 1}"
            )


@contextmanager
def naming(image: str) -> Iterator[None]:
    """Raise any error as an ImageError that names the image."""
    try:
        yield
    except Exception as error:  # Pillow raises errors of many types for damaged files
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        reason = " ".join(reason.split()) or repr(error)
        raise ImageError(f"cannot read image {image}: {reason}") from error


class ResizeTransform(T.ResizeTransform):
    """Detectron2's resizing, by PyTorch instead of Pillow for bilinear interpolation.

    PyTorch's AVX2 kernel takes a third of Pillow's time at COCO's size. Few pixels differ, by one
    grey level. The result is a view of a (C, H, W) array, which needs no copy to become a tensor.
    """

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        interpolation = self.interp if interp is None else interp
        known = img.dtype in (np.uint8, np.float32) and img.ndim == 3
        if not known or interpolation != Image.Resampling.BILINEAR:
            return super().apply_image(img, interp)
        size = self.new_h, self.new_w
        resized = F.interpolate(_maps(img)[None], size, mode="bilinear", antialias=True)
        return resized[0].permute(1, 2, 0).numpy()


def _maps(image: np.ndarray) -> Tensor:
    """Return an image as a (C, H, W) tensor; it may be read-only or have negative strides."""
    flipped = [axis for axis, stride in enumerate(image.strides) if stride < 0]
    pixels = torch.from_numpy(np.require(np.flip(image, tuple(flipped)), requirements="W"))
    if flipped:
        pixels = pixels.flip(flipped)  # 30 times as fast as a copy by NumPy
    return pixels.permute(2, 0, 1)
