"""DN-DETR: DAB-DETR w/ DN, small, on the bundled data set."""

from detectron2.config import LazyCall as L

from samdetr.modeling import Denoising

from .dab_detr import dataloader, lr_multiplier, model, optimizer, train

model.denoising = L(Denoising)(num_classes="${model.num_classes}", dim="${model.neck.dim}")
train.output_dir = "output/mini/dn_detr"
