"""Table 4, row 2 (AP 30.0): keypoints anywhere in the image."""

from samdetr.modeling import ImageKeypointResampler

from .table3_row7_keypoints_reweighting import dataloader, lr_multiplier, model, optimizer, train

model.decoder.layer.aligner.resampler._target_ = ImageKeypointResampler
train.output_dir = "output/ablations/table4_row2_image"
