"""Conditional DETR, R50-DC5, 50 epochs (table 2: AP 43.8), with the dropout of its authors."""

from .conditional_detr_r50_dc5_12ep import model
from .sam_detr_r50_dc5_50ep import dataloader, lr_multiplier, optimizer, train

model.encoder.layer.dropout = 0.1
train.output_dir = "output/conditional_detr_r50_dc5_50ep"
