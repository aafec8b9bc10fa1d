"""Table 3, row 1 (AP 22.3): the baseline, with dropout."""

from ..coco.detr_r50_12ep import dataloader, lr_multiplier, model, optimizer, train

model.encoder.layer.dropout = 0.1
train.output_dir = "output/ablations/table3_row1_detr"
