"""Cascade R-CNN w/ FPN, ResNet-50, 12 epochs (table 1: AP 40.4): Detectron2's model and recipe."""

from detectron2 import model_zoo

from .faster_rcnn_r50_fpn_12ep import dataloader, lr_multiplier, optimizer, train

model = model_zoo.get_config("common/models/cascade_rcnn.py").model
model.roi_heads.mask_in_features = model.roi_heads.mask_pooler = model.roi_heads.mask_head = None
train.output_dir = "output/cascade_rcnn_r50_fpn_12ep"
