"""The original DETR, R50-DC5, 500 epochs (table 2: AP 43.3): 100 queries, softmax and dropout."""

from ..common.models.sam_detr_dc5 import model as sam_detr
from .detr_r50_500ep import lr_multiplier, model
from .sam_detr_r50_dc5_12ep import dataloader, optimizer, train

model.backbone.stages = sam_detr.backbone.stages
train.max_iter = 7_392_938  # 500 epochs * 118_287 images / 8 per batch, rounded up
train.output_dir = "output/detr_r50_dc5_500ep"
