"""Figure 7, one keypoint (AP 30.3)."""

from .table3_row5_keypoint_reweighting import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/ablations/figure7_1_keypoint"
