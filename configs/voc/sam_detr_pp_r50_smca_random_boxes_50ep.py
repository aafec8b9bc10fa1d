"""Pascal VOC with random reference boxes, kept (table 5: mAP at 0.5 is 79.3)."""

from samdetr.modeling import RandomReference

from .sam_detr_pp_r50_smca_50ep import dataloader, lr_multiplier, model, optimizer, train

model.queries._target_ = RandomReference
train.output_dir = "output/voc/sam_detr_pp_r50_smca_random_boxes_50ep"
