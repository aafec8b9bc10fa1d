"""Table 3, row 4 (AP 28.6): one keypoint, without reweighting."""

from detectron2.config import LazyCall as L

from samdetr.modeling import OpenGate

from .table3_row5_keypoint_reweighting import dataloader, lr_multiplier, model, optimizer, train

model.decoder.layer.aligner.content_gate = L(OpenGate)()
model.decoder.layer.aligner.position_gate = L(OpenGate)()
train.output_dir = "output/ablations/table3_row4_keypoint"
