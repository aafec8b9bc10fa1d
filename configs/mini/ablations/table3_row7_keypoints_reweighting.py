"""Table 3, row 7: SAM-DETR, with dropout; small."""

from ..sam_detr import dataloader, lr_multiplier, model, optimizer, train

model.encoder.layer.dropout = 0.1
train.output_dir = "output/mini/ablations/table3_row7_keypoints_reweighting"
