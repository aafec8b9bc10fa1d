"""Deformable DETR, small, on the bundled data set."""

from ..common.models.mini_deformable import model
from .sam_detr import dataloader, lr_multiplier, optimizer, train

train.output_dir = "output/mini/deformable_detr"
