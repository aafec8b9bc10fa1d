"""From an entry of a data set to what the model gets; images of every kind are read.

Units: pixels. Images are (H, W, 3) uint8 before and (3, H, W) after the mapper.
"""

import copy
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.data.detection_utils import check_image_size, convert_PIL_to_numpy
from detectron2.utils.file_io import PathManager
from PIL import ExifTags, Image

from .images import ResizeTransform

_ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class DetectionMapper(DatasetMapper):
    """Detectron2's mapper for boxes, on images as `read_image` reads them.

    Args: those of `detectron2.data.DatasetMapper`. Crowds are not trained on; an entry without
    annotations is an image without objects.
    """

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Returns the entry with `image` (3, H, W) and, in training, `instances`.

        Raises:
            OSError: the image is missing or broken; names the file.
            SizeMismatchError: its size is not that of the entry.
        """
        record = copy.deepcopy(dataset_dict)  # annotations are changed in place below
        size = record.get("width"), record.get("height")
        image = read_image(record["file_name"], self.image_format, size)
        check_image_size(record, image)
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


def read_image(
    file_name: str, image_format: str = "RGB", size: tuple[int | None, int | None] = (None, None)
) -> np.ndarray:
    """Reads an image of any mode that Pillow knows, in the frame its annotations are in.

    A photograph can be stored rotated, with a note (EXIF) of how to turn it. Annotations nearly
    always belong to the turned image, and so does what this returns. Where `size` is that of the
    image as stored and not as turned, they belong to the stored one, and the note is ignored.

    Args:
        image_format: a format of Detectron2, such as "RGB" or "BGR".
        size: width and height by the annotations, if known.

    Returns:
        (H, W, 3) uint8. Transparency is ignored, and 16 bits per pixel are cut to the upper 8.

    Raises:
        OSError: the file is missing or not a whole image; names it, the cause is attached.
    """
    try:
        with PathManager.open(file_name, "rb") as file:
            stored = Image.open(file)
            stored.load()
        turned = _turned(stored)
        image = stored if stored.size == size != turned.size else turned
        return convert_image(image, image_format)
    except Exception as error:  # broken files make Pillow raise errors of many types
        raise OSError(f"cannot read image {file_name}: {error}") from error


def convert_image(image: Image.Image, image_format: str = "RGB") -> np.ndarray:
    """The (H, W, 3) uint8 pixels of an image of any mode; arguments as in `read_image`."""
    return convert_PIL_to_numpy(_eight_bits(image), image_format)


def _turned(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF block says; ImageOps.exif_transpose fails on odd blocks."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # an unreadable block is no reason to lose the image
        return image
    if orientation not in _ORIENTATIONS:
        return image
    return image.transpose(_ORIENTATIONS[orientation])


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit grey as 8-bit grey: Pillow's own conversion would cut everything above 255."""
    if image.mode != "I" and not image.mode.startswith("I;16"):
        return image
    return Image.fromarray((np.asarray(image).clip(0, 65535) // 256).astype(np.uint8))
