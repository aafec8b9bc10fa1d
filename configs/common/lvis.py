"""LVIS v1, whose metric is LVIS's AP; the package `lvis` reads it (`pip install 'samdetr[lvis]'`).

Images of rare categories are repeated as in the LVIS paper, https://arxiv.org/abs/1908.03195.
"""

from detectron2.config import LazyCall as L
from detectron2.data.samplers import RepeatFactorTrainingSampler

from samdetr.evaluation import LVISEvaluator

from .data import dataloader

dataloader.train.dataset.names = "lvis_v1_train"
dataloader.train.sampler = L(RepeatFactorTrainingSampler)(
    repeat_factors=L(RepeatFactorTrainingSampler.repeat_factors_from_category_frequency)(
        dataset_dicts="${dataloader.train.dataset}", repeat_thresh=0.001
    ),
    seed="${train.seed}",
)
dataloader.test.dataset.names = "lvis_v1_val"
dataloader.evaluator = L(LVISEvaluator)(
    dataset_name="${..test.dataset.names}",
    output_dir="${train.output_dir}/inference",  # lvis_instances_results.json
)
