"""Table 3, row 10: SAM-DETR++; small."""

from ..sam_detr_pp import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/mini/ablations/table3_row10_multi_scale"
