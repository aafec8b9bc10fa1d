"""Pictures of detections and ground truth, drawn by Detectron2's `Visualizer`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from detectron2.data import Metadata
from detectron2.evaluation import DatasetEvaluator
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Instances
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage, has_event_storage
from PIL import Image
from torch import Tensor

from .data.bands import composite
from .modeling import SAMDETR

try:
    from detectron2.utils.visualizer import Visualizer
    from matplotlib import rc_context
    from matplotlib.figure import Figure
except ModuleNotFoundError as error:
    raise ImportError(f"drawing needs {error.name}: run `pip install samdetr[draw]`") from error

Picture = np.ndarray  # (H, W, 3) uint8 RGB
DRAWN_WIDTH = 384  # pixels; smaller images are enlarged so that labels are legible


def to_picture(image: Tensor, input_format: str) -> Picture:
    """Convert a model input to a picture that is at least DRAWN_WIDTH wide.

    Args:
        image: (C, H, W), 0 to 255.
        input_format: order of three channels, "RGB" or "BGR".
    """
    channels = composite(image.permute(1, 2, 0).cpu().numpy())
    picture = Image.fromarray(channels[..., ::-1] if input_format == "BGR" else channels)
    scale = max(1.0, DRAWN_WIDTH / picture.width)
    return np.asarray(picture.resize([round(scale * x) for x in picture.size]))


def labels_as_text() -> AbstractContextManager[None]:
    """Disable matplotlib's math parsing in the block: class names may contain dollar signs."""
    return rc_context({"text.parse_math": False})


def draw_ground_truth(picture: Picture, instances: Instances, metadata: Metadata) -> Picture:
    """Draw `gt_boxes` and the names of `gt_classes`, scaled to the size of the picture."""
    height, width = instances.image_size
    boxes = instances.gt_boxes.clone()
    boxes.scale(picture.shape[1] / width, picture.shape[0] / height)
    names = metadata.get("thing_classes")
    labels = [names[i] if names else str(i) for i in instances.gt_classes.tolist()]
    drawn = Visualizer(picture, metadata)
    with labels_as_text():
        return drawn.overlay_instances(boxes=boxes, labels=labels).get_image()


def draw_detections(
    picture: Picture, instances: Instances, metadata: Metadata, scale: float = 1.0
) -> Picture:
    """Draw `pred_boxes`, in pixels of `picture`, with class and score, enlarged by `scale`."""
    drawn = Visualizer(picture, metadata, scale)
    with labels_as_text():
        return drawn.draw_instance_predictions(instances.to("cpu")).get_image()


class DetectionPictures(DatasetEvaluator):
    """Evaluator that gives pictures of detections to the writers of a training.

    Args:
        metadata: of the data set, for `thing_classes`.
        input_format: channel order of the images; None for RGB.
        count: number of images that are drawn, the first of the first process.
        threshold: lowest score of the detections that are drawn.
    """

    def __init__(
        self, metadata: Metadata, input_format: str | None, count: int, threshold: float = 0.5
    ):
        self.metadata = metadata
        self.input_format = input_format or "RGB"
        self.count = count
        self.threshold = threshold
        self.drawn = 0

    def reset(self) -> None:
        self.drawn = 0 if comm.is_main_process() and has_event_storage() else self.count

    def process(self, inputs: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Any]]) -> None:
        for entry, output in list(zip(inputs, outputs))[: self.count - self.drawn]:
            picture = to_picture(entry["image"], self.input_format)
            found = output["instances"].to("cpu")
            found = detector_postprocess(found[found.scores >= self.threshold], *picture.shape[:2])
            drawn = draw_detections(picture, found, self.metadata)
            name = f"detections/{self.drawn}"
            get_event_storage().put_image(name, torch.as_tensor(drawn.transpose(2, 0, 1).copy()))
            self.drawn += 1


@torch.no_grad()
def draw_comparison(
    model: SAMDETR, inputs: Sequence[dict[str, Any]], metadata: Metadata, threshold: float = 0.5
) -> Figure:
    """Draw the ground truth (upper row) and the detections (lower row) of some images.

    Args:
        model: a detector in evaluation mode.
        inputs: `image` and `instances` of each image, as the training mapper returns them.
        threshold: lowest score of the detections that are drawn.
    """
    figure = Figure(figsize=(2.4 * len(inputs), 5.2), layout="constrained")
    axes = figure.subplots(2, len(inputs), squeeze=False)
    for (upper, lower), entry in zip(axes.T, inputs):
        picture = to_picture(entry["image"], model.input_format)
        size = dict(zip(("height", "width"), picture.shape[:2]))
        found = model([{"image": entry["image"], **size}])[0]["instances"]
        found = found[found.scores >= threshold]
        upper.imshow(draw_ground_truth(picture, entry["instances"], metadata))
        lower.imshow(draw_detections(picture, found, metadata))
    for axis in axes.flat:
        axis.set_axis_off()
    axes[0, 0].set_title("ground truth", loc="left")
    axes[1, 0].set_title(f"detections, score ≥ {threshold:g}", loc="left")
    return figure
