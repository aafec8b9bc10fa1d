"""DN-DETR: DAB-DETR w/ DN, ResNet-50-DC5, 12 epochs (table 1: AP 41.7)."""

from detectron2.config import LazyCall as L

from samdetr.modeling import Denoising

from .dab_detr_r50_dc5_12ep import dataloader, lr_multiplier, model, optimizer, train

model.denoising = L(Denoising)(num_classes="${model.num_classes}", dim="${model.neck.dim}")
train.output_dir = "output/dn_detr_r50_dc5_12ep"
