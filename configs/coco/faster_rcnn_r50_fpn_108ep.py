"""Faster R-CNN w/ FPN, ResNet-50, 108 epochs (table 2: AP 42.0), as strengthened in DETR's paper.

Detectron2's "9x", with GIoU as the box loss of the heads and DETR's augmentation, random crops
included: https://arxiv.org/abs/2005.12872, section 4.1.
"""

from detectron2 import model_zoo

from ..common.data import dataloader as detr
from .faster_rcnn_r50_fpn_12ep import dataloader, model, optimizer, train

dataloader.train.mapper.augmentations = detr.train.mapper.augmentations
model.roi_heads.box_predictor.box_reg_loss_type = "giou"
lr_multiplier = model_zoo.get_config("common/coco_schedule.py").lr_multiplier_9x
train.max_iter = 810_000  # 9 * 90_000
train.output_dir = "output/faster_rcnn_r50_fpn_108ep"
