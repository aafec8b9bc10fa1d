"""From an entry of a data set to what the model gets.

Units: pixels. Images are (H, W, 3) uint8 before and (3, H, W) after the mapper.
"""

import copy
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.data.detection_utils import SizeMismatchError, check_image_size

from .datasets import DataError
from .images import ResizeTransform
from .reading import read_image


class DetectionMapper(DatasetMapper):
    """Detectron2's mapper for boxes, on images as `read_image` reads them.

    Args: those of `detectron2.data.DatasetMapper`. Crowds are not trained on; an entry without
    annotations is an image without objects.
    """

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Returns the entry with `image` (3, H, W) and, in training, `instances`.

        Raises:
            ImageError: the image cannot be read.
            DataError: its size is not that of the entry.
        """
        record = copy.deepcopy(dataset_dict)  # annotations are changed in place below
        size = record.get("width"), record.get("height")
        image = read_image(record["file_name"], self.image_format, size)
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
            # Detectron2's transforms round a box of integers down, each of them again.
            annotation["bbox"] = [float(number) for number in annotation["bbox"]]
        self._transform_annotations(record, transforms, augmented.image.shape[:2])
        return record


class ResizeShortestEdge(T.ResizeShortestEdge):
    """Detectron2's resizing, for which a side of an image never shrinks to nothing.

    An image of 1 x 5000 pixels resized to at most 1333 keeps 1 pixel; Detectron2 rounds it to 0.
    """

    def get_transform(self, image: np.ndarray) -> T.Transform:
        resize = super().get_transform(image)
        height, width = image.shape[:2]
        if isinstance(resize, T.NoOpTransform):
            return resize
        new_height, new_width = max(resize.new_h, 1), max(resize.new_w, 1)
        return ResizeTransform(height, width, new_height, new_width, self.interp)
