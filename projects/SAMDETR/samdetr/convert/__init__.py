"""Weights of other implementations under our names, and ours under those of others.

Files are read and written by `files`, what they hold is told from its names by `sources`, and
`command` goes from file to file; the rest has the names of one implementation each.
"""

from .classes import coco80, coco91, coco_class_rows
from .describe import describe
from .detr import DETR, detr_to_baseline, detr_to_samdetr, detr_to_softmax
from .files import Checkpoint, half_precision, read_checkpoint, read_state_dict, save_model
from .hf import hf_conditional_to_samdetr, hf_dab_to_samdetr, hf_detr_to_samdetr, read_pretrained
from .hf_deformable import hf_deformable_to_samdetr
from .official import OFFICIAL, official_to_samdetr, samdetr_to_official
from .resnet import torchvision_to_detectron2
from .rules import ConversionError, Rules, StateDict, rename
from .sources import recognise

__all__ = [
    "DETR",
    "OFFICIAL",
    "Checkpoint",
    "ConversionError",
    "Rules",
    "StateDict",
    "coco80",
    "coco91",
    "coco_class_rows",
    "describe",
    "detr_to_baseline",
    "detr_to_samdetr",
    "detr_to_softmax",
    "half_precision",
    "hf_conditional_to_samdetr",
    "hf_dab_to_samdetr",
    "hf_deformable_to_samdetr",
    "hf_detr_to_samdetr",
    "official_to_samdetr",
    "read_checkpoint",
    "read_pretrained",
    "read_state_dict",
    "recognise",
    "rename",
    "samdetr_to_official",
    "save_model",
    "torchvision_to_detectron2",
]
