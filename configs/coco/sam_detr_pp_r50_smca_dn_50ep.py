"""SAM-DETR++ w/ SMCA + DN, ResNet-50, 50 epochs (table 2: AP 49.1)."""

from detectron2.config import LazyCall as L

from samdetr.modeling import Denoising

from .sam_detr_pp_r50_smca_50ep import dataloader, lr_multiplier, model, optimizer, train

model.denoising = L(Denoising)(num_classes="${model.num_classes}", dim="${model.neck.dim}")
train.output_dir = "output/sam_detr_pp_r50_smca_dn_50ep"
