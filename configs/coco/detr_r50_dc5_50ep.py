"""The baseline: DETR with 300 queries and focal loss, R50-DC5, 50 epochs (table 2: AP 36.7)."""

from ..common.models.detr_dc5 import model
from .sam_detr_r50_dc5_50ep import dataloader, lr_multiplier, optimizer, train

train.output_dir = "output/detr_r50_dc5_50ep"
