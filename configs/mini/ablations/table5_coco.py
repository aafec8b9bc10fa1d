"""Table 5, reference boxes of another training, kept; small, without another data set."""

from samdetr.modeling import CheckpointReference

from ..sam_detr_pp_smca import dataloader, lr_multiplier, model, optimizer, train

model.queries._target_ = CheckpointReference
model.queries.path = "output/mini/sam_detr_pp_smca/model_final.pth"
train.output_dir = "output/mini/ablations/table5_coco"
