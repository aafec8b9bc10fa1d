"""The original DETR, ResNet-50, 500 epochs (table 2: AP 42.0): 100 queries, softmax and dropout.

The learning rate drops after 400 epochs, as in https://arxiv.org/abs/2005.12872, section 4.
"""

from ..common.models.detr_softmax import model
from ..common.optim import lr_multiplier_500ep as lr_multiplier
from .sam_detr_r50_12ep import dataloader, optimizer, train

model.encoder.layer.dropout = 0.1
train.max_iter = 3_696_469  # 500 epochs * 118_287 images / 16 per batch, rounded up
train.output_dir = "output/detr_r50_500ep"
