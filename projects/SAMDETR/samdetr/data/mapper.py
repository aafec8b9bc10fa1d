"""Mapping from an entry of a data set to the model's input.

Units: pixels. Images are (H, W, 3) uint8 before and (3, H, W) after the mapper.
"""

import copy
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.data.detection_utils import SizeMismatchError, check_image_size

from ..errors import DataError
from .images import ResizeTransform, read_image


class DetectionMapper(DatasetMapper):
    """Detectron2's mapper for boxes, with images read by `samdetr.data.read_image`.

    Args: those of `detectron2.data.DatasetMapper`, and
        white: value that becomes 255, e.g. 4095 for 12 bits stored in 16; see `as_rgb`.

    Crowds are not trained on; an entry without annotations is an image without objects.
    """

    def __init__(self, *args: Any, white: float | None = None, **settings: Any):
        if white is not None and not 0 < white < np.inf:
            raise ValueError(f"white is {white}, must be a positive number")
        super().__init__(*args, **settings)
        self.white = white

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Return the entry with `image` (3, H, W) and, in training, `instances`.

        Raises:
            ImageError: if the image cannot be read.
            DataError: if its size is not that of the entry.
        """
        record = copy.deepcopy(dataset_dict)  # annotations are changed in place below
        size = record.get("width", 0), record.get("height", 0)
        image = read_image(record["file_name"], self.image_format, size, self.white)
        try:
            check_image_size(record, image)
        except SizeMismatchError as error:
            raise DataError(" ".join(str(error).split())) from error
        augmented = T.AugInput(image)
        transforms = self.augmentations(augmented)
        pixels = np.ascontiguousarray(augmented.image.transpose(2, 0, 1))
        record["image"] = torch.as_tensor(pixels)
        if not self.is_train:
            record.pop("annotations", None)
            return record
        for annotation in record.setdefault("annotations", []):
            # Detectron2's transforms keep the type of a box, and so round a box of integers.
            annotation["bbox"] = [float(number) for number in annotation["bbox"]]
        self._transform_annotations(record, transforms, augmented.image.shape[:2])
        return record


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
