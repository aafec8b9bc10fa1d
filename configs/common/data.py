"""COCO 2017, augmented as in section 5.1: the pipeline of DETR.

Own data: docs/own_data.md.
"""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L
from detectron2.data import build_detection_test_loader
from omegaconf import OmegaConf

from samdetr.data import (
    DetectionMapper,
    ResizeShortestEdge,
    build_train_loader,
    load_detection_dataset,
)
from samdetr.evaluation import DetectionEvaluator

dataloader = OmegaConf.create()

dataloader.train = L(build_train_loader)(
    dataset=L(load_detection_dataset)(
        names="coco_2017_train",
        filter_empty=False,  # all 118,287 images
        num_classes="${model.num_classes}",  # only compared with the data
    ),
    mapper=L(DetectionMapper)(
        is_train=True,
        augmentations=[
            L(T.RandomFlip)(prob=0.5),
            L(T.RandomApply)(
                tfm_or_aug=L(T.AugmentationList)(
                    augs=[
                        L(ResizeShortestEdge)(
                            short_edge_length=[400, 500, 600],
                            max_size=20_000,  # DETR has no limit; for images like 1 x 5000 pixels
                            sample_style="choice",
                        ),
                        L(T.RandomCrop)(crop_type="absolute_range", crop_size=(384, 600)),
                    ]
                ),
                prob=0.5,
            ),
            L(ResizeShortestEdge)(
                short_edge_length=[480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800],
                max_size=1333,
                sample_style="choice",
            ),
        ],
        image_format="RGB",
    ),
    total_batch_size=16,  # on all GPUs together
    num_workers=4,  # per GPU
    seed="${train.seed}",
    max_unreadable=0,  # broken images to do without; the training ends at the next
)

dataloader.test = L(build_detection_test_loader)(
    dataset=L(load_detection_dataset)(
        names="coco_2017_val", filter_empty=False, num_classes="${model.num_classes}"
    ),
    mapper=L(DetectionMapper)(
        is_train=False,
        augmentations=[
            L(ResizeShortestEdge)(short_edge_length=800, max_size=1333),
        ],
        image_format="RGB",
    ),
    num_workers=4,
)

dataloader.evaluator = L(DetectionEvaluator)(
    dataset_name="${..test.dataset.names}",
    output_dir="${train.output_dir}/inference",  # coco_instances_results.json
)
