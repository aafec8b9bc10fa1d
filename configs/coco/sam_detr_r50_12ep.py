"""SAM-DETR, ResNet-50, 12 epochs (table 1: AP 34.2)."""

from ..common.data import dataloader
from ..common.models.sam_detr import model
from ..common.optim import lr_multiplier_12ep as lr_multiplier
from ..common.optim import optimizer
from ..common.train import train

train.init_checkpoint = "detectron2://ImageNetPretrained/torchvision/R-50.pkl"
train.max_iter = 88_716  # 12 epochs * 118_287 images / 16 per batch, rounded up
train.eval_period = train.checkpointer.period = 7_393  # an epoch
train.output_dir = "output/sam_detr_r50_12ep"
