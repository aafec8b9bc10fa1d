"""The baseline of the paper with a ResNet-50-DC5."""

from .detr import model
from .sam_detr_dc5 import model as sam_detr

model.backbone.stages = sam_detr.backbone.stages
