"""SAM-DETR, small, on the bundled data set."""

from samdetr.data import mini_backbone_weights

from ..common.mini_data import dataloader
from ..common.models.mini import model
from ..common.optim import lr_multiplier_mini as lr_multiplier
from ..common.optim import optimizer
from ..common.train import train

dataloader.train.total_batch_size = 8  # twice as many steps do more than twice the images
optimizer.lr = 1e-3
optimizer.params.lr_factor_func.factor = 1.0  # the backbone has seen single digits alone
train.clip_grad.max_norm = 0.5
train.init_checkpoint = mini_backbone_weights()
train.max_iter = 1600  # 3.2 epochs * 4_000 images / 8 per batch
train.eval_period = train.checkpointer.period = 400
train.output_dir = "output/mini/sam_detr"
