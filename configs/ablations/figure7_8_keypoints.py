"""Figure 7, eight keypoints (AP 33.1)."""

from .table3_row7_keypoints_reweighting import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/ablations/figure7_8_keypoints"
