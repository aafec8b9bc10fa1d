"""Cascade R-CNN with FPN, ResNet-50, 12 epochs (table 1): model and recipe of Detectron2."""

from detectron2 import model_zoo

from .faster_rcnn_r50_fpn_12ep import dataloader, lr_multiplier, optimizer, train

model = model_zoo.get_config("common/models/cascade_rcnn.py").model
model.roi_heads.mask_in_features = model.roi_heads.mask_pooler = model.roi_heads.mask_head = None
train.output_dir = "output/cascade_rcnn_r50_fpn_12ep"
