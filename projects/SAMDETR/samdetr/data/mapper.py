"""From an entry of a data set to what the model gets.

Units: pixels. Images are (H, W, 3) uint8 before and (3, H, W) after the mapper.
"""

import copy
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.data.detection_utils import SizeMismatchError, check_image_size
from PIL import Image

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
            DataError: its size is not that of the entry, or boxes are to be those of masks and
                there are none.
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
        self._check_masks(record)
        for annotation in record.setdefault("annotations", []):
            # Detectron2's transforms round a box of integers down, each of them again.
            annotation["bbox"] = [float(number) for number in annotation["bbox"]]
        self._transform_annotations(record, transforms, augmented.image.shape[:2])
        return record

    def _check_masks(self, record: dict[str, Any]) -> None:
        """Find what Detectron2 cannot take boxes from, which is an image without objects too."""
        objects = [x for x in record.get("annotations", []) if not x.get("iscrowd", 0)]
        if self.recompute_boxes and not (objects and all("segmentation" in x for x in objects)):
            raise DataError(
                f"{record['file_name']} has no objects, or one without a mask: "
                "dataloader.train.mapper.recompute_boxes cannot be with such"
            )


class ResizeShortestEdge(T.ResizeShortestEdge):
    """Detectron2's resizing, for which a side of an image never shrinks to nothing.

    An image of 1 x 5000 pixels resized to at most 1333 keeps 1 pixel; Detectron2 rounds it to 0.

    Args: those of `detectron2.data.transforms.ResizeShortestEdge`. A shortest edge of 0 leaves an
    image as it is.

    Raises:
        ValueError: if an edge is not an integer or negative, `max_size` is less than 1, or the
            least edge of a range is above the greatest.
    """

    def __init__(
        self,
        short_edge_length: int | Sequence[int],
        max_size: int = sys.maxsize,
        sample_style: str = "range",
        interp: int = Image.Resampling.BILINEAR,
    ):
        edges = short_edge_length
        edges = [edges, edges] if isinstance(edges, int) else [*edges]
        if not edges or not all(type(edge) is int and edge >= 0 for edge in edges):
            raise ValueError(f"short_edge_length is {short_edge_length}, must be 0 or more pixels")
        if sample_style not in ("range", "choice"):
            raise ValueError(f"sample_style is {sample_style!r}, must be range or choice")
        if sample_style == "range" and (len(edges) != 2 or edges[0] > edges[1]):
            raise ValueError(
                f"short_edge_length is {short_edge_length}, must be the least and the greatest "
                "with sample_style='range'"
            )
        if max_size < 1:
            raise ValueError(f"max_size is {max_size}, must be 1 or more pixels")
        super().__init__(edges, max_size, sample_style, interp)

    def get_transform(self, image: np.ndarray) -> T.Transform:
        resize = super().get_transform(image)
        height, width = image.shape[:2]
        if isinstance(resize, T.NoOpTransform):
            return resize
        new_height, new_width = max(resize.new_h, 1), max(resize.new_w, 1)
        return ResizeTransform(height, width, new_height, new_width, self.interp)
