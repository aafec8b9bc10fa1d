"""Table 3, row 10 (AP 41.9): SAM-DETR++."""

from ..coco.sam_detr_pp_r50_12ep import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/ablations/table3_row10_multi_scale"
