"""SAM-DETR, ResNet-50-DC5, 12 epochs (table 1: AP 39.1)."""

from ..common.models.sam_detr_dc5 import model
from .sam_detr_r50_12ep import dataloader, lr_multiplier, optimizer, train

dataloader.train.total_batch_size = 8
train.max_iter = 177_431  # 12 epochs * 118_287 images / 8 per batch, rounded up
train.eval_period = train.checkpointer.period = 14_786  # an epoch
train.output_dir = "output/sam_detr_r50_dc5_12ep"
