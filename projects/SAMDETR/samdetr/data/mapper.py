"""Mapping from an entry of a data set to the model's input.

Units: pixels. Images are (H, W, C) uint8 before and (C, H, W) after the mapper.
"""

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.data.detection_utils import SizeMismatchError, check_image_size

from ..errors import DataError
from .bands import BANDS, read_bands
from .images import ResizeTransform, read_image
from .mixing import Draw, Scene


class DetectionMapper(DatasetMapper):
    """Detectron2's mapper for boxes, with images read by `samdetr.data.read_image`.

    Args: those of `detectron2.data.DatasetMapper`, and
        white: value that becomes 255, e.g. 4095 for 12 bits stored in 16; see `as_rgb`.
        mixing: augmentations of several images, such as `Mosaic`, applied first in training.

    `image_format` may also be "BANDS", for all channels as `read_bands` reads them. Augmentations
    may take `image` and `boxes` (x0, y0, x1, y1), as Detectron2's `MinIoURandomCrop` does.

    Crowds are not trained on; an entry without annotations is an image without objects.
    """

    def __init__(
        self,
        *args: Any,
        white: float | None = None,
        mixing: Sequence[Callable[[Scene, Draw], Scene]] = (),
        **settings: Any,
    ):
        if white is not None and not 0 < white < np.inf:
            raise ValueError(f"white is {white}, must be a positive number")
        super().__init__(*args, **settings)
        self.white = white
        self.mixing = mixing if self.is_train else ()

    def __call__(
        self, dataset_dict: dict[str, Any], draw: Callable[[], dict[str, Any]] | None = None
    ) -> dict[str, Any]:
        """Return the entry with `image` (C, H, W) and, in training, `instances`.

        Args:
            dataset_dict: the entry.
            draw: returns a random entry of the data set, for `mixing`.

        Raises:
            ImageError: if the image cannot be read.
            DataError: if its size is not that of the entry.
        """
        record = copy.deepcopy(dataset_dict)  # annotations are changed in place below
        annotations = record.pop("annotations", [])
        scene = Scene(self.read(record), [])
        if self.is_train:
            scene = Scene.of(scene.image, annotations)
            if draw is not None:
                drawn = partial(self._drawn, draw)
                for part in self.mixing:
                    scene = part(scene, drawn)
        augmented = T.AugInput(scene.image, boxes=scene.boxes)
        transforms = self.augmentations(augmented)
        pixels = np.require(augmented.image.transpose(2, 0, 1), requirements=["C", "W"])
        record["image"] = torch.as_tensor(pixels)
        if self.is_train:
            record["annotations"] = copy.deepcopy(scene.objects)
            self._transform_annotations(record, transforms, augmented.image.shape[:2])
        return record

    def _drawn(self, draw: Callable[[], dict[str, Any]]) -> Scene:
        record = draw()
        return Scene.of(self.read(record), record.get("annotations", []))

    def read(self, record: dict[str, Any]) -> np.ndarray:
        """Read the (H, W, C) image of an entry; see `__call__`."""
        if self.image_format == BANDS:
            image = read_bands(record["file_name"], self.white)
        else:
            size = record.get("width", 0), record.get("height", 0)
            image = read_image(record["file_name"], self.image_format, size, self.white)
        try:
            check_image_size(record, image)
        except SizeMismatchError as error:
            raise DataError(" ".join(str(error).split())) from error
        return image


class ResizeShortestEdge(T.ResizeShortestEdge):
    """Detectron2's resizing, which keeps at least one pixel of each side.

    Detectron2 rounds the short side of an image of 1 x 5000 pixels, resized to at most 1333, to 0.

    Args: those of `detectron2.data.transforms.ResizeShortestEdge`. A shortest edge of 0 leaves an
    image as it is.
    """

    def get_transform(self, image: np.ndarray) -> T.Transform:
        resize = super().get_transform(image)
        if isinstance(resize, T.NoOpTransform):
            return resize
        size = max(resize.new_h, 1), max(resize.new_w, 1)
        return ResizeTransform(*image.shape[:2], *size, self.interp)
