"""Figure 7, sixteen keypoints."""

from .figure7_1_keypoint import dataloader, lr_multiplier, model, optimizer, train

model.decoder.layer.cross_attention.num_points = 16
train.output_dir = "output/ablations/figure7_16_keypoints"
