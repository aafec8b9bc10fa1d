"""Deformable DETR on one feature level, ResNet-50-DC5, 12 epochs (table 1: AP 34.9)."""

from ..common.models.sam_detr_dc5 import model as sam_detr
from .deformable_detr_r50_ss_12ep import model
from .sam_detr_r50_dc5_12ep import dataloader, lr_multiplier, optimizer, train

model.backbone.stages = sam_detr.backbone.stages
train.output_dir = "output/deformable_detr_r50_dc5_12ep"
