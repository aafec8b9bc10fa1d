"""Table 3, row 6 (AP 32.0): eight keypoints, without reweighting."""

from detectron2.config import LazyCall as L

from samdetr.modeling import OpenGate

from .table3_row7_keypoints_reweighting import dataloader, lr_multiplier, model, optimizer, train

model.decoder.layer.aligner.content_gate = L(OpenGate)()
model.decoder.layer.aligner.position_gate = L(OpenGate)()
train.output_dir = "output/ablations/table3_row6_keypoints"
