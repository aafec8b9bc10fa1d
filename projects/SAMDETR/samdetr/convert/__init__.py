"""Weights of other implementations under our names, and ours under the official ones.

`rules` renames by tables; `official` has those of the official code of SAM-DETR, DETR and
torchvision, `hf` those of `transformers`; `files` recognises a model by its weights, and writes.
"""

from .files import describe, half_precision, recognise, save_model
from .hf import (
    hf_conditional_to_samdetr,
    hf_dab_to_samdetr,
    hf_deformable_to_samdetr,
    hf_detr_to_samdetr,
)
from .official import (
    DETR,
    OFFICIAL,
    coco80,
    coco91,
    coco_class_rows,
    detr_to_baseline,
    detr_to_samdetr,
    detr_to_softmax,
    official_to_samdetr,
    samdetr_to_official,
    torchvision_to_detectron2,
)
from .rules import ConversionError, rename
