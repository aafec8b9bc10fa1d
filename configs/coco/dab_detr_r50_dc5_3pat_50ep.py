"""DAB-DETR with 3 patterns per reference box, R50-DC5, 50 epochs (table 2: AP 45.7)."""

from samdetr.modeling import PatternReference

from .dab_detr_r50_dc5_50ep import dataloader, lr_multiplier, model, optimizer, train

model.queries._target_ = PatternReference
model.queries.num_patterns = 3
model.num_queries = 900  # 3 patterns * 300 boxes
train.output_dir = "output/dab_detr_r50_dc5_3pat_50ep"
