"""Table 3, row 9: SAM-DETR++ with the decoder of the baseline; small."""

from ...common.models.mini_detr import model as _detr
from ..sam_detr_pp import dataloader, lr_multiplier, model, optimizer, train

model.queries = _detr.queries
model.decoder = _detr.decoder
model.decoder.levels = [2, 1, 0]
train.output_dir = "output/mini/ablations/table3_row9_multi_scale_unaligned"
