"""Table 3, row 5 (AP 30.3): one keypoint, split among the heads."""

from samdetr.modeling import ConcatenatedCrossAttention

from .table3_row7_keypoints_reweighting import dataloader, lr_multiplier, model, optimizer, train

model.decoder.layer.cross_attention._target_ = ConcatenatedCrossAttention
model.decoder.layer.cross_attention.num_points = 1
model.decoder.layer.aligner.resampler.num_points = "${...cross_attention.num_points}"
model.decoder.layer.aligner.content_gate.num_points = "${...cross_attention.num_points}"
model.decoder.layer.aligner.position_gate.num_points = "${...cross_attention.num_points}"
train.output_dir = "output/ablations/table3_row5_keypoint_reweighting"
