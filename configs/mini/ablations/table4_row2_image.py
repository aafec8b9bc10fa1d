"""Table 4, row 2: keypoints anywhere in the image; small."""

from samdetr.modeling import ImageKeypointResampler

from .table3_row7_keypoints_reweighting import dataloader, lr_multiplier, model, optimizer, train

model.decoder.layer.aligner.resampler._target_ = ImageKeypointResampler
train.output_dir = "output/mini/ablations/table4_row2_image"
