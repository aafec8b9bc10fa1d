"""The original DETR with 100 queries and a softmax over the classes, ResNet-50, 50 epochs."""

from ..common.models.detr_softmax import model
from .detr_r50_50ep import dataloader, lr_multiplier, optimizer, train

train.output_dir = "output/detr_softmax_r50_50ep"
