"""DAB-DETR, ResNet-50-DC5, 50 epochs (table 2: AP 44.5)."""

from ..common.models.dab_detr import model
from .sam_detr_r50_dc5_50ep import dataloader, lr_multiplier, optimizer, train

train.output_dir = "output/dab_detr_r50_dc5_50ep"
