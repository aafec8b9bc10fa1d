"""SAM-DETR with a ResNet-50-DC5: the last stage of the backbone is dilated and keeps stride 16."""

from detectron2.config import LazyCall as L

from samdetr.modeling import resnet50_dc5_stages

from .sam_detr import model

model.backbone.stages = L(resnet50_dc5_stages)(norm="FrozenBN")
