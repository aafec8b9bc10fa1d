"""Table 3, row 7 (AP 33.1): SAM-DETR, with dropout."""

from ..coco.sam_detr_r50_12ep import dataloader, lr_multiplier, model, optimizer, train

model.encoder.layer.dropout = 0.1
train.output_dir = "output/ablations/table3_row7_keypoints_reweighting"
