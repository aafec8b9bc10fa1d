"""How Detectron2 trains ConvNets, for the ConvNet rows of table 1: its "1x" of 12 epochs."""

import math

import detectron2.data.transforms as T
from detectron2 import model_zoo
from detectron2.config import LazyCall as L

from samdetr.data import ResizeShortestEdge

from .data import dataloader
from .train import train

dataloader.train.dataset.filter_empty = True  # images without objects are left out
dataloader.train.mapper.augmentations = [
    L(ResizeShortestEdge)(
        short_edge_length=[640, 672, 704, 736, 768, 800], max_size=1333, sample_style="choice"
    ),
    L(T.RandomFlip)(prob=0.5),
]
dataloader.train.mapper.image_format = "BGR"  # of the weights of MSRA
dataloader.test.mapper.image_format = "BGR"

optimizer = model_zoo.get_config("common/optim.py").SGD
lr_multiplier = model_zoo.get_config("common/coco_schedule.py").lr_multiplier_1x

train.init_checkpoint = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"
train.max_iter = 90_000  # of 16 images
train.clip_grad.max_norm = math.inf
train.eval_period = train.checkpointer.period = 7_500  # a twelfth of them
