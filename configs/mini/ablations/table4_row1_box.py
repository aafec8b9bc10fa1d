"""Table 4, row 1: keypoints within their box; small."""

from .table3_row7_keypoints_reweighting import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/mini/ablations/table4_row1_box"
