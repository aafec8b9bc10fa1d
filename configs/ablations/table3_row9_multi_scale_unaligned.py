"""Table 3, row 9 (AP 29.1): SAM-DETR++ with the decoder of the baseline."""

from ..coco.sam_detr_pp_r50_12ep import dataloader, lr_multiplier, model, optimizer, train
from ..common.models.detr import model as _detr

model.queries = _detr.queries
model.decoder = _detr.decoder
model.decoder.levels = [2, 2, 1, 1, 0, 0]
train.output_dir = "output/ablations/table3_row9_multi_scale_unaligned"
