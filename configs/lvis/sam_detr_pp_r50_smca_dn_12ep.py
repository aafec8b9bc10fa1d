"""SAM-DETR++ w/ SMCA + DN on LVIS v1 (not in the paper), ResNet-50, 12 epochs."""

from ..coco.sam_detr_pp_r50_smca_dn_12ep import lr_multiplier, model, optimizer, train
from ..common.lvis import dataloader

model.num_classes = 1203
model.detections_per_image = 300  # as many as LVIS's metric looks at
train.max_iter = 75_128  # 12 epochs * 100_170 images / 16 per batch, rounded up
train.eval_period = train.checkpointer.period = 6_261  # an epoch
train.output_dir = "output/lvis/sam_detr_pp_r50_smca_dn_12ep"
