"""The toys of toy.py, trained by the project's own optimiser, schedule and settings."""

from detectron2.config import LazyCall as L

from toy import ToyEvaluator, ToyLoader, ToyModel, ToyTestLoader

from ..configs.common.optim import lr_multiplier_12ep as lr_multiplier
from ..configs.common.optim import optimizer
from ..configs.common.train import train

model = L(ToyModel)(num_classes=4, dim=8)
dataloader = dict(
    train=L(ToyLoader)(batch_size=4),
    test=L(ToyTestLoader)(),
    evaluator=L(ToyEvaluator)(aps=[50.0]),
)
optimizer.lr = 0.01
train.max_iter = 12
train.seed = 0
train.device = "cpu"
train.checkpointer.period = 4
train.eval_period = 0
train.log_period = 1
