"""Augmentations that combine several images: mosaic and mixup.

They are parts of `DetectionMapper`, applied before its other augmentations in training. Everything
random comes from NumPy's global generator, which the loader seeds by position.

Units: pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from detectron2.structures import BoxMode

from .images import ResizeTransform


class Scene(NamedTuple):
    """An image and its objects."""

    image: np.ndarray  # (H, W, C)
    objects: list[dict[str, Any]]  # annotations with `bbox` (x0, y0, x1, y1)

    @property
    def boxes(self) -> np.ndarray:
        """The (T, 4) boxes."""
        return np.array([x["bbox"] for x in self.objects], np.float64).reshape(-1, 4)

    def with_boxes(self, image: np.ndarray, boxes: np.ndarray) -> Scene:
        """Return the objects in another image, where they have other boxes."""
        return Scene(image, [{**x, "bbox": box.tolist()} for x, box in zip(self.objects, boxes)])

    def resized(self, factor: float) -> Scene:
        """Return the scene, enlarged by a factor."""
        height, width = self.image.shape[:2]
        new = max(1, round(factor * height)), max(1, round(factor * width))
        scale = np.array([new[1] / width, new[0] / height] * 2)
        image = ResizeTransform(height, width, *new).apply_image(self.image)
        return self.with_boxes(image, self.boxes * scale)

    @classmethod
    def of(cls, image: np.ndarray, annotations: list[dict[str, Any]]) -> Scene:
        """Return the scene of an image and annotations of any box mode, without crowds."""
        objects = [x for x in annotations if not x.get("iscrowd", 0)]
        boxes = [BoxMode.convert([*map(float, x["bbox"])], x["bbox_mode"], XYXY) for x in objects]
        return cls(image, [{**x, "bbox": y, "bbox_mode": XYXY} for x, y in zip(objects, boxes)])


XYXY = BoxMode.XYXY_ABS
Draw = Callable[[], Scene]  # returns an image drawn from the data set


class Mosaic:
    """Put four images together at a point (YOLOv4, https://arxiv.org/abs/2004.10934, section 3.3).

    Args:
        size: height and width of the result. The images meet in its middle half.
        prob: probability that an image is combined with others.
        scale: range of the longer side of an image, as a fraction of `size`.
        least_visible: an object of which less remains, as a fraction of its area, is left out.
        fill: value of pixels without an image.
    """

    def __init__(
        self,
        size: int,
        prob: float = 0.5,
        scale: tuple[float, float] = (0.4, 1.0),
        least_visible: float = 0.1,
        fill: int = 114,
    ):
        if size < 2 or not 0 <= prob <= 1 or not 0 < scale[0] <= scale[1]:
            raise ValueError(f"got size={size}, prob={prob}, scale={tuple(scale)}")
        self.size, self.fill = size, fill
        self.prob, self.scale, self.least_visible = prob, scale, least_visible

    def __call__(self, scene: Scene, draw: Draw) -> Scene:
        if np.random.uniform() >= self.prob:
            return scene
        canvas = np.full((self.size, self.size, scene.image.shape[2]), self.fill, scene.image.dtype)
        x, y = (np.random.uniform(0.25, 0.75, 2) * self.size).astype(int)
        objects = []
        for number, part in enumerate([scene, draw(), draw(), draw()]):
            longer_side = np.random.uniform(*self.scale) * self.size
            part = part.resized(longer_side / max(part.image.shape[:2]))
            height, width = part.image.shape[:2]
            left, top = x - width * (number % 2 == 0), y - height * (number < 2)
            objects += self._place(part, canvas, left, top)
        return Scene(canvas, objects)

    def _place(self, part: Scene, canvas: np.ndarray, left: int, top: int) -> list[dict[str, Any]]:
        """Copy a scene into the canvas, and return the objects that remain visible."""
        height, width = part.image.shape[:2]
        x0, y0, x1, y1 = max(left, 0), max(top, 0), left + width, top + height
        canvas[y0:y1, x0:x1] = part.image[y0 - top : self.size - top, x0 - left : self.size - left]
        boxes = part.boxes + [left, top, left, top]
        clipped = boxes.clip(0, self.size)
        areas, visible = ((x[:, 2] - x[:, 0]) * (x[:, 3] - x[:, 1]) for x in (boxes, clipped))
        objects = part.with_boxes(canvas, clipped).objects
        kept = (visible > 0) & (visible >= self.least_visible * areas)
        return [x for x, keep in zip(objects, kept) if keep]


class MixUp:
    """Blend an image with another one that is scaled to fit into it, and keep the objects of both.

    mixup: https://arxiv.org/abs/1710.09412; for detectors https://arxiv.org/abs/1902.04103, whose
    Beta(1.5, 1.5) is the default.

    Args:
        prob: probability that an image is blended.
        alpha: the share of the image is drawn from Beta(alpha, alpha).
    """

    def __init__(self, prob: float = 0.5, alpha: float = 1.5):
        if not 0 <= prob <= 1 or alpha <= 0:
            raise ValueError(f"got prob={prob}, alpha={alpha}")
        self.prob = prob
        self.alpha = alpha

    def __call__(self, scene: Scene, draw: Draw) -> Scene:
        if np.random.uniform() >= self.prob:
            return scene
        other, share = draw(), np.random.beta(self.alpha, self.alpha)
        lengths = zip(scene.image.shape[:2], other.image.shape[:2])
        other = other.resized(min(ours / theirs for ours, theirs in lengths))
        height, width = (min(x) for x in zip(scene.image.shape[:2], other.image.shape[:2]))
        mixed = scene.image.astype(np.float32)
        part = mixed[:height, :width]
        part += (1 - share) * (other.image[:height, :width] - part)
        exact = mixed.round() if scene.image.dtype == np.uint8 else mixed
        return Scene(exact.astype(scene.image.dtype), scene.objects + other.objects)
