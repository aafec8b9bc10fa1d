"""FCOS, ResNet-50 with FPN, 12 epochs (table 1: AP 38.6): Detectron2's model and recipe."""

from detectron2 import model_zoo

from ..common.convnet import dataloader, lr_multiplier, optimizer, train

model = model_zoo.get_config("COCO-Detection/fcos_R_50_FPN_1x.py").model
optimizer.lr = 0.01
train.output_dir = "output/fcos_r50_fpn_12ep"
