"""Deformable DETR, multi-scale, without box refinement, ResNet-50, 50 epochs (table 2: AP 43.8).

With the dropout of its authors, whose learning rate of 2e-4 for 32 images is 1e-4 for 16.
"""

from ..common.models.deformable_detr import model
from .sam_detr_r50_50ep import dataloader, lr_multiplier, optimizer, train

model.encoder.layer.dropout = 0.1
train.output_dir = "output/deformable_detr_r50_50ep"
