"""SMCA-DETR, ResNet-50-DC5, 12 epochs (table 1: AP 32.5)."""

from ..common.models.sam_detr_dc5 import model as sam_detr
from ..common.models.smca_detr import model
from .sam_detr_r50_dc5_12ep import dataloader, lr_multiplier, optimizer, train

model.backbone.stages = sam_detr.backbone.stages
train.output_dir = "output/smca_detr_r50_dc5_12ep"
