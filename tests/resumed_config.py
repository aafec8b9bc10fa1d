"""A toy that draws random numbers everywhere, with the project's own loader."""

from detectron2.config import LazyCall as L

from interruption import Measure, NoisyModel, noisy, records
from samdetr.data import build_train_loader

from .toy_config import dataloader, lr_multiplier, model, optimizer, train

model = L(NoisyModel)(num_classes=4, dim=8)
dataloader.train = L(build_train_loader)(
    dataset=L(records)(),
    mapper=noisy,
    total_batch_size=4,
    num_workers=0,
    seed="${train.seed}",
)
dataloader.evaluator = L(Measure)()
train.checkpointer.period = train.eval_period = 3
train.log_period = 4
