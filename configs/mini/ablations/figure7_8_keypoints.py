"""Figure 7, eight keypoints; small."""

from .table3_row7_keypoints_reweighting import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/mini/ablations/figure7_8_keypoints"
