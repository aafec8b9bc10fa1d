"""Conditional DETR, ResNet-50, 50 epochs (table 2: AP 40.9), with the dropout of its authors."""

from ..common.models.conditional_detr import model
from .sam_detr_r50_50ep import dataloader, lr_multiplier, optimizer, train

model.encoder.layer.dropout = 0.1
train.output_dir = "output/conditional_detr_r50_50ep"
