"""SAM-DETR, ResNet-50-DC5, 50 epochs; for this long the paper's code has no norm in the neck."""

from ..common.optim import lr_multiplier_50ep as lr_multiplier
from .sam_detr_r50_dc5_12ep import dataloader, model, optimizer, train

model.neck.norm = ""
train.max_iter = 739_294  # 50 epochs * 118_287 images / 8 per batch, rounded up
train.output_dir = "output/sam_detr_r50_dc5_50ep"
