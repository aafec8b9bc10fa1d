"""Figure 7, four keypoints; small."""

from .figure7_1_keypoint import dataloader, lr_multiplier, model, optimizer, train

model.decoder.layer.cross_attention.num_points = 4
train.output_dir = "output/mini/ablations/figure7_4_keypoints"
