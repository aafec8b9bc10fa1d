"""SAM-DETR++, ResNet-50, 12 epochs (table 1: AP 41.9)."""

from ..common.models.sam_detr_pp import model
from .sam_detr_r50_12ep import dataloader, lr_multiplier, optimizer, train

train.output_dir = "output/sam_detr_pp_r50_12ep"
