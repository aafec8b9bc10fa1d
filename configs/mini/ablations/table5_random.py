"""Table 5, random reference boxes, kept; small."""

from samdetr.modeling import RandomReference

from ..sam_detr_pp_smca import dataloader, lr_multiplier, model, optimizer, train

model.queries._target_ = RandomReference
train.output_dir = "output/mini/ablations/table5_random"
