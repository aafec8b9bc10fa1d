"""Data: loading, checking and augmenting data sets; importing it registers the small set `mini`."""

from pathlib import Path

from .datasets import DataError, load_detection_dataset
from .loader import build_train_loader
from .mapper import DetectionMapper, ResizeShortestEdge
from .mini.dataset import cache_folder, mini_folder, write_mini
from .mini.digits import SceneParameters
from .own import CocoFiles, VocFolder, load_own_dataset
from .reading import ImageError, convert_image, read_image

__all__ = [
    "CocoFiles",
    "DataError",
    "DetectionMapper",
    "ImageError",
    "ResizeShortestEdge",
    "SceneParameters",
    "VocFolder",
    "build_train_loader",
    "cache_folder",
    "convert_image",
    "example_image",
    "load_detection_dataset",
    "load_own_dataset",
    "mini_backbone_weights",
    "mini_folder",
    "read_image",
    "write_mini",
]


def example_image() -> str:
    """The file of a picture to try a detector on: image 000013.jpg of `mini_val`."""
    return str(Path(__file__).with_name("example.jpg"))


def mini_backbone_weights() -> str:
    """The file with the pretrained weights of `samdetr.modeling.mini_resnet`.

    `tools/pretrain_mini_backbone.py` made it. Of 2,000 held-out digits (other samples, other
    regions of the photographs) its classifier on res3 knows 96.6 % and that on res5 95.5 %.
    """
    return str(Path(__file__).parents[1] / "weights" / "mini_backbone.pth")
