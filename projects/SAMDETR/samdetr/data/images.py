"""Resizing of images, the most expensive step between a file and the model.

Detectron2 resizes with Pillow. PyTorch's kernel for bytes does the same sum for every pixel with
vector instructions (AVX2; without them it is slower than Pillow): at COCO's size it takes a third
of the time. The two round differently in few pixels, and then by one grey level.

Units: pixels. Images are (H, W, C).
"""

import numpy as np
import torch
from detectron2.data import transforms as T
from PIL import Image
from torch import Tensor
from torch.nn import functional as F


class ResizeTransform(T.ResizeTransform):
    """Detectron2's resizing, faster where bytes are interpolated linearly.

    The result is a view of a (C, H, W) array: what makes a tensor of it has nothing to rearrange.
    """

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        interpolation = self.interp if interp is None else interp
        if img.dtype != np.uint8 or img.ndim != 3 or interpolation != Image.Resampling.BILINEAR:
            return super().apply_image(img, interp)
        size = self.new_h, self.new_w
        # As Pillow does, antialias: where a side shrinks, all pixels of the source count.
        resized = F.interpolate(_maps(img)[None], size, mode="bilinear", antialias=True)
        return resized[0].permute(1, 2, 0).numpy()


def _maps(image: np.ndarray) -> Tensor:
    """The image as (C, H, W), for arrays that PyTorch takes no view of.

    A flipped image has negative strides, and one that comes from Pillow cannot be written to.
    """
    flipped = [axis for axis, stride in enumerate(image.strides) if stride < 0]
    pixels = torch.from_numpy(np.require(np.flip(image, flipped), requirements="W"))
    if flipped:
        pixels = pixels.flip(flipped)  # 30 times as fast as a copy by numpy
    return pixels.permute(2, 0, 1)
