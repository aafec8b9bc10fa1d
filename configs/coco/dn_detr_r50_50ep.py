"""DN-DETR: DAB-DETR w/ DN, ResNet-50, 50 epochs (table 2: AP 44.1)."""

from detectron2.config import LazyCall as L

from samdetr.modeling import Denoising

from .dab_detr_r50_50ep import dataloader, lr_multiplier, model, optimizer, train

model.denoising = L(Denoising)(num_classes="${model.num_classes}", dim="${model.neck.dim}")
train.output_dir = "output/dn_detr_r50_50ep"
