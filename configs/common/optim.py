"""Optimiser and learning rate schedules of section 5.1."""

import torch
from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import LinearParamScheduler, MultiStepParamScheduler

from samdetr.engine import BackboneFactor, parameter_groups

# Weight decay is the same for norms and biases, as in DETR. The model is filled in at run time.
optimizer = L(torch.optim.AdamW)(
    params=L(parameter_groups)(
        base_lr="${..lr}",
        factors=None,  # of the learning rate, by prefixes of names, such as {backbone:0.1,neck:0.5}
        lr_factor_func=L(BackboneFactor)(factor=0.1),  # 1e-5 for the backbone
    ),
    lr=1e-4,
    weight_decay=1e-4,
    fused=True,  # one pass over the weights; the same numbers
)

# A tenth of the learning rate from a milestone on, without warm-up. Only the proportion to
# num_updates counts, so both are in epochs: the whole is `train.max_iter` iterations.
lr_multiplier_12ep = L(MultiStepParamScheduler)(values=[1.0, 0.1], milestones=[10], num_updates=12)
lr_multiplier_50ep = L(MultiStepParamScheduler)(values=[1.0, 0.1], milestones=[40], num_updates=50)
# Of Conditional DETR and of the original DETR, for rows of table 2.
lr_multiplier_108ep = L(MultiStepParamScheduler)(
    values=[1.0, 0.1], milestones=[80], num_updates=108
)
lr_multiplier_500ep = L(MultiStepParamScheduler)(
    values=[1.0, 0.1], milestones=[400], num_updates=500
)

# The small data set: a short warm-up to a ten times higher learning rate, then down to zero.
lr_multiplier_mini = L(WarmupParamScheduler)(
    scheduler=L(LinearParamScheduler)(start_value=1.0, end_value=0.0),
    warmup_factor=0.01,
    warmup_length=0.05,  # of train.max_iter
)
