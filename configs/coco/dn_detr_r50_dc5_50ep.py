"""DN-DETR: DAB-DETR w/ DN, ResNet-50-DC5, 50 epochs (table 2: AP 46.3)."""

from .dn_detr_r50_dc5_12ep import model
from .sam_detr_r50_dc5_50ep import dataloader, lr_multiplier, optimizer, train

train.output_dir = "output/dn_detr_r50_dc5_50ep"
