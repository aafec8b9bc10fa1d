"""Reading and resizing of images.

Units: pixels. Images are (H, W, 3) uint8.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from detectron2.data import transforms as T

# Private: Detectron2's public `read_image` also applies the EXIF orientation to images that were
# annotated as stored, and clips 16-bit images at 255.
from detectron2.data.detection_utils import _apply_exif_orientation, convert_PIL_to_numpy
from detectron2.utils.file_io import PathManager
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ..errors import ImageError


def read_image(
    file_name: str, image_format: str = "RGB", size: tuple[int | None, int | None] = (None, None)
) -> np.ndarray:
    """Read an image of any mode but floating point, in the frame that its annotations refer to.

    Cameras store photographs rotated, with an EXIF tag for the orientation. Annotations nearly
    always refer to the upright image, which is returned, unless `size` is that of the image as
    stored.

    Args:
        image_format: a format of Detectron2, such as "RGB" or "BGR".
        size: width and height according to the annotations, if known.

    Returns:
        (H, W, 3) uint8. The first frame of an animation; transparency is ignored, and 16-bit greys
        are reduced to their upper 8 bits.

    Raises:
        ImageError: if the file is missing, damaged or no image, or has more than twice
            `PIL.Image.MAX_IMAGE_PIXELS`; names the file.
    """
    with _naming(file_name), PathManager.open(file_name, "rb") as file:
        stored = Image.open(file)
        stored.load()
        upright = _apply_exif_orientation(stored)
        image = stored if stored.size == size != upright.size else upright
        return convert_PIL_to_numpy(_eight_bits(image), image_format)


def convert_image(image: Image.Image, image_format: str = "RGB") -> np.ndarray:
    """Convert a Pillow image of any mode to (H, W, 3) uint8.

    Raises:
        ImageError: if its file is damaged or its pixels are floating-point numbers.
    """
    with _naming(getattr(image, "filename", "") or "from Pillow"):
        return convert_PIL_to_numpy(_eight_bits(image), image_format)


@contextmanager
def _naming(image: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # Pillow raises errors of many types for damaged files
        reason = os.strerror(error.errno) if getattr(error, "errno", None) else str(error)
        reason = " ".join(reason.split()) or repr(error)
        raise ImageError(f"cannot read image {image}: {reason}") from error


def _eight_bits(image: Image.Image) -> Image.Image:
    """Reduce 16-bit greys to 8 bits; Pillow's own conversion clips them at 255."""
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, whose range is unknown")
    if image.mode != "I" and not image.mode.startswith("I;16"):
        return image
    return Image.fromarray((np.asarray(image).clip(0, 65535) // 256).astype(np.uint8))


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
