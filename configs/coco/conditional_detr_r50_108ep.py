"""Conditional DETR, ResNet-50, 108 epochs (table 2: AP 43.0).

The learning rate drops after 80 epochs, as in https://arxiv.org/abs/2108.06152, section 4.1.
"""

from ..common.optim import lr_multiplier_108ep as lr_multiplier
from .conditional_detr_r50_50ep import dataloader, model, optimizer, train

train.max_iter = 798_438  # 108 epochs * 118_287 images / 16 per batch, rounded up
train.output_dir = "output/conditional_detr_r50_108ep"
