"""SAM-DETR++ w/ SMCA on Pascal VOC 07+12, ResNet-50 (table 5: mAP at 0.5 is 79.6).

The paper does not give the schedule: this is its longer one, 50 epochs with a tenth of the learning
rate after 40, for the data are a seventh of COCO's.
"""

from ..coco.sam_detr_pp_r50_smca_50ep import lr_multiplier, model, optimizer, train
from ..common.voc import dataloader

model.num_classes = 20
train.max_iter = 51_722  # 50 epochs * (5_011 + 11_540) images / 16 per batch, rounded up
train.eval_period = train.checkpointer.period = 1_035  # an epoch
train.best_metric = "bbox/AP50"
train.output_dir = "output/voc/sam_detr_pp_r50_smca_50ep"
