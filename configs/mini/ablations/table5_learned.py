"""Table 5, reference boxes that are learned; small."""

from ..sam_detr_pp_smca import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/mini/ablations/table5_learned"
