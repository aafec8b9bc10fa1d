"""Conditional DETR, ResNet-50, 12 epochs (table 1: AP 32.2)."""

from ..common.models.conditional_detr import model
from .sam_detr_r50_12ep import dataloader, lr_multiplier, optimizer, train

train.output_dir = "output/conditional_detr_r50_12ep"
