"""Deformable DETR, multi-scale, without box refinement, ResNet-50, 12 epochs (table 1: AP 37.2)."""

from ..common.models.deformable_detr import model
from .sam_detr_r50_12ep import dataloader, lr_multiplier, optimizer, train

train.output_dir = "output/deformable_detr_r50_12ep"
