"""SAM-DETR, ResNet-50, 50 epochs; for this long the paper's code has no norm in the neck."""

from ..common.optim import lr_multiplier_50ep as lr_multiplier
from .sam_detr_r50_12ep import dataloader, model, optimizer, train

model.neck.norm = ""
train.max_iter = 369_647  # 50 epochs * 118_287 images / 16 per batch, rounded up
train.output_dir = "output/sam_detr_r50_50ep"
