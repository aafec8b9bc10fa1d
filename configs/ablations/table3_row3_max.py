"""Table 3, row 3 (AP 27.0): the maximum of the region, without reweighting."""

from detectron2.config import LazyCall as L

from samdetr.modeling import MaxResampler

from .table3_row4_keypoint import dataloader, lr_multiplier, model, optimizer, train

model.decoder.layer.aligner.resampler = L(MaxResampler)()
train.output_dir = "output/ablations/table3_row3_max"
