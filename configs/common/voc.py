"""Pascal VOC, trained on trainval 2007 and 2012 and evaluated on test 2007: table 5."""

from detectron2.config import LazyCall as L

from samdetr.evaluation import PascalVOCDetectionEvaluator

from .data import dataloader

dataloader.train.dataset.names = ["voc_2007_trainval", "voc_2012_trainval"]
dataloader.test.dataset.names = "voc_2007_test"
dataloader.evaluator = L(PascalVOCDetectionEvaluator)(dataset_name="${..test.dataset.names}")
