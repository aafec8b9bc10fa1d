"""Detection as planned: drawn and as COCO results."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np
from detectron2.data import Metadata
from detectron2.utils.video_visualizer import VideoVisualizer
from detectron2.utils.visualizer import Visualizer
from PIL import Image
from tqdm import tqdm

from ..predictor import Prediction, Predictor
from ..visualize import labels_as_text
from .outputs import CocoResults, category_ids
from .plan import Plan, Video

DRAWN_WIDTH = 384  # pixels: smaller images are enlarged, so that labels are legible
DRAWN_SIDE = 65_500  # pixels of the longer side that a JPEG file has at most: larger ones shrink
JPEG_QUALITY = 95


class Report(NamedTuple):
    """What became of a run."""

    images: int  # images and frames that were looked at
    detections: int  # on them
    failures: list[str]  # a sentence for each image that could not be read


def run(predictor: Predictor, plan: Plan) -> Report:
    """Detect and write; after an error or an interruption the results so far are written.

    Raises:
        InputError: if a video cannot be written, or if the annotations lack a category.
        OSError: if a picture or the results cannot be written.
    """
    results = CocoResults(category_ids(predictor.metadata, plan.annotations))
    failures: list[str] = []
    numbers = count(len(plan.images) + 1)
    try:
        _detect_images(predictor, plan, results, failures)
        for video in plan.videos:
            _detect_frames(predictor, video, results, numbers)
    finally:
        if plan.json:
            results.write(plan.json)
    return Report(results.images, len(results.entries), failures)


def _detect_images(
    predictor: Predictor, plan: Plan, results: CocoResults, failures: list[str]
) -> None:
    files = tqdm(plan.images, unit="image", disable=not plan.images)
    for found in predictor.stream(files, lambda _, error: failures.append(str(error))):
        results.add(found.instances, plan.images[found.source], file_name=str(found.source))
        if found.source in plan.pictures:
            save(draw(found, predictor.metadata), plan.pictures[found.source])


def _detect_frames(
    predictor: Predictor, video: Video, results: CocoResults, numbers: Iterator[int]
) -> None:
    painter = VideoVisualizer(predictor.metadata)
    frames = tqdm(video.frames, total=video.frames.count, unit="frame")
    try:
        for frame, found in enumerate(predictor.stream(frames), 1):
            results.add(found.instances, next(numbers), file_name=video.frames.name, frame=frame)
            if video.sink is None:
                continue
            with labels_as_text():
                drawn = painter.draw_instance_predictions(found.image, found.instances)
            if not video.sink.add(drawn.get_image()):
                break
    except KeyboardInterrupt:  # how a camera's file ends, and a video may
        pass
    finally:
        if video.sink is not None:
            video.sink.close()


def draw(found: Prediction, metadata: Metadata) -> np.ndarray:
    """The image with boxes, classes and scores on it, (H, W, 3) uint8 RGB."""
    height, width = found.image.shape[:2]
    scale = min(max(1.0, DRAWN_WIDTH / max(height, width)), DRAWN_SIDE / max(height, width))
    visualizer = Visualizer(found.image, metadata, scale)
    with labels_as_text():
        drawn: np.ndarray = visualizer.draw_instance_predictions(found.instances).get_image()
    return drawn


def save(picture: np.ndarray, path: Path) -> None:
    """Write a picture; its suffix says the format."""
    Image.fromarray(picture).save(path, quality=JPEG_QUALITY)
