"""SAM-DETR w/ DN, ResNet-50-DC5, 12 epochs (table 1: AP 42.3)."""

from detectron2.config import LazyCall as L

from samdetr.modeling import Denoising

from .sam_detr_r50_dc5_12ep import dataloader, lr_multiplier, model, optimizer, train

model.denoising = L(Denoising)(num_classes="${model.num_classes}", dim="${model.neck.dim}")
train.output_dir = "output/sam_detr_r50_dc5_dn_12ep"
