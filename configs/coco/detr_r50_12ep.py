"""The baseline: DETR with 300 queries and focal loss, ResNet-50, 12 epochs (table 1: AP 22.3)."""

from ..common.models.detr import model
from .sam_detr_r50_12ep import dataloader, lr_multiplier, optimizer, train

train.output_dir = "output/detr_r50_12ep"
