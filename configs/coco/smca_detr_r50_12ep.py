"""SMCA-DETR, ResNet-50, 12 epochs (table 1: AP 31.6)."""

from ..common.models.smca_detr import model
from .sam_detr_r50_12ep import dataloader, lr_multiplier, optimizer, train

train.output_dir = "output/smca_detr_r50_12ep"
