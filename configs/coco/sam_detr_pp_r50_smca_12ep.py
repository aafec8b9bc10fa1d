"""SAM-DETR++ w/ SMCA, ResNet-50, 12 epochs (table 1: AP 43.2)."""

from detectron2.config import LazyCall as L

from samdetr.modeling import GaussianPrior

from .sam_detr_pp_r50_12ep import dataloader, lr_multiplier, model, optimizer, train

model.decoder.layer.cross_attention.prior = L(GaussianPrior)(descriptor_dim=512, num_points=8)
train.output_dir = "output/sam_detr_pp_r50_smca_12ep"
