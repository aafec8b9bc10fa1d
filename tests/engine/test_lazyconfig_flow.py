"""Our configs train, resume and evaluate by Detectron2's public parts, without our engine.

The flow is that of Detectron2's `tools/lazyconfig_train_net.py`.
"""

from pathlib import Path

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyConfig, instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.engine import (
    AMPTrainer,
    SimpleTrainer,
    create_ddp_model,
    default_writers,
    hooks,
)
from detectron2.evaluation import inference_on_dataset

from samdetr.data import SceneParameters, write_mini

CONFIGS = Path(__file__).parents[2] / "configs"
MINI = sorted(path.stem for path in (CONFIGS / "mini").glob("*.py"))
SETTINGS = [
    "dataloader.train.num_workers=0",
    "dataloader.train.total_batch_size=2",
    "dataloader.test.batch_size=2",
    "dataloader.train.dataset.names=flow_train",
    "dataloader.test.dataset.names=flow_val",
    "train.device=cpu",
    "train.log_period=1",
    "train.eval_period=0",
    "train.checkpointer.period=2",
]


@pytest.fixture(scope="module", autouse=True)
def small_data_sets(tmp_path_factory):
    """Few images, since COCO's metrics take seconds on those of `mini_val`."""
    folder = tmp_path_factory.mktemp("flow")
    write_mini(folder, SceneParameters(seed=1), {"train": 8, "val": 4})
    for split in ("train", "val"):
        register_coco_instances(
            f"flow_{split}", {}, str(folder / f"{split}.json"), str(folder / split)
        )
    yield
    for split in ("train", "val"):
        DatasetCatalog.remove(f"flow_{split}")
        MetadataCatalog.remove(f"flow_{split}")


def config(name, folder, *overrides):
    cfg = LazyConfig.load(str(CONFIGS / "mini" / f"{name}.py"))
    overrides = [*SETTINGS, f"train.output_dir={folder}", *overrides]
    return LazyConfig.apply_overrides(cfg, overrides)


def evaluate(cfg, model):
    loader, evaluator = map(instantiate, (cfg.dataloader.test, cfg.dataloader.evaluator))
    return inference_on_dataset(model, loader, evaluator)


def train(cfg, resume):
    """Returns the first iteration, and the results of the evaluation at the end."""
    model = instantiate(cfg.model).to(cfg.train.device)
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    loader = instantiate(cfg.dataloader.train)
    model = create_ddp_model(model, **cfg.train.ddp)
    kind = AMPTrainer if cfg.train.amp.enabled else SimpleTrainer
    trainer = kind(model, loader, optimizer)
    checkpointer = DetectionCheckpointer(
        model, cfg.train.output_dir, optimizer=optimizer, trainer=trainer
    )
    evaluation = hooks.EvalHook(cfg.train.eval_period, lambda: evaluate(cfg, model))
    writers = default_writers(cfg.train.output_dir, cfg.train.max_iter)
    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            hooks.LRScheduler(scheduler=instantiate(cfg.lr_multiplier)),
            hooks.PeriodicCheckpointer(checkpointer, **cfg.train.checkpointer),
            evaluation,
            hooks.PeriodicWriter(writers, period=cfg.train.log_period),
        ]
    )
    checkpointer.resume_or_load(cfg.train.init_checkpoint, resume=resume)
    start = trainer.iter + 1 if resume and checkpointer.has_checkpoint() else 0
    trainer.train(start, cfg.train.max_iter)
    return start, trainer.storage.latest()


@pytest.mark.slow
@pytest.mark.parametrize("name", MINI)
def test_a_mini_config_trains_resumes_and_evaluates(name, tmp_path):
    assert train(config(name, tmp_path, "train.max_iter=2"), resume=False)[0] == 0
    start, metrics = train(config(name, tmp_path, "train.max_iter=3"), resume=True)
    assert start == 2 and torch.isfinite(torch.tensor(metrics["total_loss"][0]))

    saved = torch.load(tmp_path / "model_final.pth")
    assert saved["trainer"]["iteration"] == 2
    steps = {float(x["step"]) for x in saved["optimizer"]["state"].values()}
    assert steps == {3.0}  # of the optimizer: two, and one after it was restored

    cfg = config(name, tmp_path / "evaluated")
    model = instantiate(cfg.model).to(cfg.train.device)
    DetectionCheckpointer(model).load(str(tmp_path / "model_final.pth"))
    assert evaluate(cfg, model)["bbox"]["AP"] == metrics["bbox/AP"][0]
