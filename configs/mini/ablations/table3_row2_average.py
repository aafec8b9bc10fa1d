"""Table 3, row 2: the mean of the region, without reweighting; small."""

from detectron2.config import LazyCall as L

from samdetr.modeling import AverageResampler

from .table3_row4_keypoint import dataloader, lr_multiplier, model, optimizer, train

model.decoder.layer.aligner.resampler = L(AverageResampler)()
train.output_dir = "output/mini/ablations/table3_row2_average"
