"""SAM-DETR++ w/ SMCA, small, on the bundled data set."""

from detectron2.config import LazyCall as L

from samdetr.modeling import GaussianPrior

from .sam_detr_pp import dataloader, lr_multiplier, model, optimizer, train

model.decoder.layer.cross_attention.prior = L(GaussianPrior)(descriptor_dim=96, num_points=8)
train.output_dir = "output/mini/sam_detr_pp_smca"
