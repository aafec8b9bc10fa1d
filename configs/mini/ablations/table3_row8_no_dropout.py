"""Table 3, row 8: SAM-DETR; small."""

from ..sam_detr import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/mini/ablations/table3_row8_no_dropout"
