"""Table 3, row 8 (AP 34.2): SAM-DETR."""

from ..coco.sam_detr_r50_12ep import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/ablations/table3_row8_no_dropout"
