"""DAB-DETR, ResNet-50, 50 epochs (table 2: AP 42.2)."""

from ..common.models.dab_detr import model
from ..common.models.sam_detr import model as sam_detr
from .sam_detr_r50_50ep import dataloader, lr_multiplier, optimizer, train

model.backbone.stages = sam_detr.backbone.stages
train.output_dir = "output/dab_detr_r50_50ep"
