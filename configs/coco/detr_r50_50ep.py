"""The baseline: DETR with 300 queries and focal loss, ResNet-50, 50 epochs (table 2: AP 34.9)."""

from ..common.models.detr import model
from .sam_detr_r50_50ep import dataloader, lr_multiplier, optimizer, train

train.output_dir = "output/detr_r50_50ep"
