"""Training and evaluation: Detectron2's engine on CPU and GPU, in one process or several."""

from ..errors import ConfigError, TrainingError
from ..failures import killed_process
from .config import add_trust_option, argument_parser, configure, load_config, parse_arguments
from .launch import start
from .model import build_model, compile_parts
from .optimizer import BackboneFactor, LayerDecay, build_optimizer, parameter_groups
from .train import evaluate, main, train
from .trainer import Trainer
