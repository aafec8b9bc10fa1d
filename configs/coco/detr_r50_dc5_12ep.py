"""The baseline: DETR with 300 queries and focal loss, R50-DC5, 12 epochs (table 1: AP 25.9)."""

from ..common.models.detr_dc5 import model
from .sam_detr_r50_dc5_12ep import dataloader, lr_multiplier, optimizer, train

train.output_dir = "output/detr_r50_dc5_12ep"
