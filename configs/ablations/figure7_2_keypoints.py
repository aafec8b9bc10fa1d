"""Figure 7, two keypoints."""

from .figure7_1_keypoint import dataloader, lr_multiplier, model, optimizer, train

model.decoder.layer.cross_attention.num_points = 2
train.output_dir = "output/ablations/figure7_2_keypoints"
