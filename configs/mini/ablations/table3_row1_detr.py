"""Table 3, row 1: the baseline, with dropout; small."""

from ..detr import dataloader, lr_multiplier, model, optimizer, train

model.encoder.layer.dropout = 0.1
train.output_dir = "output/mini/ablations/table3_row1_detr"
