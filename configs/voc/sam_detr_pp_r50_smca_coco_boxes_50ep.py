"""Pascal VOC with the reference boxes learned on COCO, kept (table 5: mAP at 0.5 is 79.5)."""

from samdetr.modeling import CheckpointReference

from .sam_detr_pp_r50_smca_50ep import dataloader, lr_multiplier, model, optimizer, train

model.queries._target_ = CheckpointReference
model.queries.path = "output/sam_detr_pp_r50_smca_50ep/model_final.pth"
train.output_dir = "output/voc/sam_detr_pp_r50_smca_coco_boxes_50ep"
