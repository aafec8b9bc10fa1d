"""DAB-DETR, ResNet-50-DC5, 12 epochs (table 1: AP 38.0)."""

from ..common.models.dab_detr import model
from .sam_detr_r50_dc5_12ep import dataloader, lr_multiplier, optimizer, train

train.output_dir = "output/dab_detr_r50_dc5_12ep"
