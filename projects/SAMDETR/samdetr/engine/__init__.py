"""Training and evaluation: Detectron2's engine, on CPU and GPU, in one process and in several."""

from .arguments import argument_parser, configure
from .config import ConfigError, load_config
from .faults import TrainingError, killed_process
from .launch import start
from .optimizer import BackboneFactor, build_optimizer
from .train import build_model, compile_parts, evaluate, main, train
from .trainer import Trainer
from .trust import add_trust_option

__all__ = [
    "add_trust_option",
    "killed_process",
    "BackboneFactor",
    "ConfigError",
    "Trainer",
    "TrainingError",
    "argument_parser",
    "build_model",
    "build_optimizer",
    "compile_parts",
    "configure",
    "evaluate",
    "load_config",
    "main",
    "start",
    "train",
]
