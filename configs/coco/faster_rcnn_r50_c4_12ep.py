"""Faster R-CNN on res4, ResNet-50, 12 epochs (table 1: AP 35.7): Detectron2's model and recipe."""

from detectron2 import model_zoo

from .faster_rcnn_r50_fpn_12ep import dataloader, lr_multiplier, optimizer, train

model = model_zoo.get_config("common/models/mask_rcnn_c4.py").model
model.roi_heads.mask_head = None
train.output_dir = "output/faster_rcnn_r50_c4_12ep"
