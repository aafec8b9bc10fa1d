"""Deformable DETR on one feature level, ResNet-50, 12 epochs (table 1: AP 31.8)."""

from samdetr.modeling import MultiScaleMapper

from .deformable_detr_r50_12ep import dataloader, lr_multiplier, model, optimizer, train

model.backbone.out_features = ["res5"]
model.neck._target_ = MultiScaleMapper
model.neck.in_channels = dict(res5=2048)
model.encoder.layer.attention.num_levels = 1
model.decoder.layer.cross_attention.num_levels = 1
train.output_dir = "output/deformable_detr_r50_ss_12ep"
