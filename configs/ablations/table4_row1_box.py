"""Table 4, row 1 (AP 33.1): keypoints within their box."""

from .table3_row7_keypoints_reweighting import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/ablations/table4_row1_box"
