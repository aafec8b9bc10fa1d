"""The bundled data set `mini`: 4,000 images to train on and 500 to evaluate on, of 96 pixels."""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

from samdetr.data import ResizeShortestEdge

from .data import dataloader

dataloader.train.dataset.names = "mini_train"
dataloader.train.mapper.augmentations = [  # no flip: a mirrored digit is none
    L(ResizeShortestEdge)(short_edge_length=96, max_size=96),
    L(T.RandomBrightness)(intensity_min=0.8, intensity_max=1.2),
    L(T.RandomContrast)(intensity_min=0.8, intensity_max=1.2),
]
dataloader.train.num_workers = 2

dataloader.test.dataset.names = "mini_val"
dataloader.test.mapper.augmentations = [L(ResizeShortestEdge)(short_edge_length=96, max_size=96)]
dataloader.test.num_workers = 0
dataloader.test.batch_size = 20
