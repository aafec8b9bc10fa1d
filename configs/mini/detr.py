"""The baseline: original DETR, small, on the bundled data set."""

from ..common.models.mini_detr import model
from .sam_detr import dataloader, lr_multiplier, optimizer, train

train.output_dir = "output/mini/detr"
