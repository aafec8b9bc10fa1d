"""Figure 7, one keypoint; small."""

from .table3_row5_keypoint_reweighting import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/mini/ablations/figure7_1_keypoint"
