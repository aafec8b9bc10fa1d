"""SAM-DETR++, ResNet-50, 50 epochs (table 2: AP 47.5)."""

from ..common.models.sam_detr_pp import model
from .sam_detr_r50_50ep import dataloader, lr_multiplier, optimizer, train

train.output_dir = "output/sam_detr_pp_r50_50ep"
