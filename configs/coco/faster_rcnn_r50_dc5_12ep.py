"""Faster R-CNN, ResNet-50-DC5, 12 epochs (table 1: AP 37.3): Detectron2's model and recipe."""

from ..common.models.faster_rcnn_dc5 import model
from .faster_rcnn_r50_fpn_12ep import dataloader, lr_multiplier, optimizer, train

train.output_dir = "output/faster_rcnn_r50_dc5_12ep"
