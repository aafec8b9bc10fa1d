"""Loading and augmentation of data sets; importing it registers the bundled data set `mini`."""

from pathlib import Path

from ..errors import DataError, ImageError
from .bands import read_bands
from .datasets import load_detection_dataset
from .images import convert_image, read_image
from .loader import build_train_loader
from .mapper import DetectionMapper, ResizeShortestEdge
from .mini import SceneParameters, cache_folder, mini_folder, write_mini
from .mixing import MixUp, Mosaic
from .own import CocoFiles, ImageFolder, VocFolder, YoloFiles, load_own_dataset


def example_image() -> str:
    """Return the path of an example image, 000013.jpg of `mini_val`."""
    return str(Path(__file__).with_name("example.jpg"))


def mini_backbone_weights() -> str:
    """Return the path of the pretrained weights of `samdetr.modeling.mini_resnet`.

    `tools/pretrain_mini_backbone.py` made the file. On 2,000 held-out digits (other samples, other
    regions of the photographs) its classifier on res3 is right on 96.6 % and that on res5 on
    95.5 %.
    """
    return str(Path(__file__).parents[1] / "weights" / "mini_backbone.pth")
