"""The command line of train_net.py, and the config that it describes."""

from __future__ import annotations

import argparse

from detectron2.engine import default_argument_parser
from omegaconf import DictConfig, OmegaConf

from .building import check_parts
from .config import apply_overrides, check_config, read_config
from .launch import number_of_processes
from .own_data import add_arguments, own_datasets, use
from .trust import add_trust_option

EPILOG = """
Examples:
  train_net.py --config-file configs/mini/sam_detr_smca.py train.output_dir=output/mini
  train_net.py --config-file configs/coco/sam_detr_r50_smca_12ep.py --num-gpus 8
  train_net.py --config-file output/mini/config.yaml --resume
  train_net.py --config-file output/mini/config.yaml --eval-only \\
      train.init_checkpoint=output/mini/model_best.pth
  train_net.py --config-file configs/coco/sam_detr_r50_smca_12ep.py \\
      --train-json train.json --train-images images --val-json val.json --val-images images \\
      train.init_checkpoint=sam_detr.pth train.max_iter=2000 train.output_dir=output/own
"""


def argument_parser() -> argparse.ArgumentParser:
    """Detectron2's, with own data, and a free port of this machine as the default meeting point."""
    parser = default_argument_parser(EPILOG)
    add_arguments(parser)
    add_trust_option(parser)
    parser.set_defaults(dist_url="auto", datasets=None)
    return parser


def configure(args: argparse.Namespace) -> DictConfig:
    """The config of a command line: the file, with its data sets, with the overrides.

    Args:
        args: of `argument_parser`. Own data is checked once: what was found stays in
            `args.datasets`, for the processes that are given it.

    Raises:
        ConfigError: if the file, an option or an override cannot work, or is not to be trusted.
        DataError: if own data is wrong.
    """
    cfg = read_config(args.config_file, args.trusted_config)
    if args.datasets is None:
        classes = OmegaConf.select(cfg, "dataloader.train.dataset.classes")
        args.datasets = own_datasets(args, classes)
    use(cfg, args.datasets)
    apply_overrides(cfg, args.opts)
    check_config(cfg, number_of_processes(args))
    check_parts(cfg)
    return cfg
