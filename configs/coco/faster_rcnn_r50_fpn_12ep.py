"""Faster R-CNN w/ FPN, ResNet-50, 12 epochs (table 1: AP 37.9): Detectron2's model and recipe."""

from detectron2 import model_zoo

from ..common.convnet import dataloader, lr_multiplier, optimizer, train

model = model_zoo.get_config("common/models/mask_rcnn_fpn.py").model
model.roi_heads.mask_in_features = model.roi_heads.mask_pooler = model.roi_heads.mask_head = None
dataloader.train.dataset.num_classes = "${model.roi_heads.num_classes}"
dataloader.test.dataset.num_classes = "${model.roi_heads.num_classes}"
train.output_dir = "output/faster_rcnn_r50_fpn_12ep"
