"""SAM-DETR w/ SMCA + DN, small, on the bundled data set."""

from detectron2.config import LazyCall as L

from samdetr.modeling import Denoising

from .sam_detr_smca import dataloader, lr_multiplier, model, optimizer, train

model.denoising = L(Denoising)(num_classes="${model.num_classes}", dim="${model.neck.dim}")
train.output_dir = "output/mini/sam_detr_smca_dn"
