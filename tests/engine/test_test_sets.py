"""Several test sets, each evaluated alone under its name."""

import json

from detectron2.config import LazyCall as L
from detectron2.evaluation import DatasetEvaluator
from test_engine_training import config

from samdetr.engine import evaluate, train
from toy import sample

SIZES = {"day": 3, "night": 5, "fog": 2}


class Loader(list):
    """The images of a data set by name."""

    def __init__(self, dataset):
        super().__init__([[sample(i)] for i in range(dataset)])


class Count(DatasetEvaluator):
    """Gives the number of images as the AP, and notes it in a file."""

    def __init__(self, dataset_name, output_dir):
        self.name, self.folder = dataset_name, output_dir

    def reset(self):
        self.images = 0

    def process(self, inputs, outputs):
        self.images += len(inputs)

    def evaluate(self):
        return {"bbox": {"AP": float(self.images), "named": float(SIZES[self.name])}}


def size(names):
    return SIZES[names]


def named(folder, *overrides):
    cfg = config(folder, *overrides)
    cfg.dataloader.test = L(Loader)(dataset=L(size)(names="day"))
    cfg.dataloader.evaluator = L(Count)(
        dataset_name="${..test.dataset.names}", output_dir="${train.output_dir}/inference"
    )
    return cfg


def check(results):
    assert results == {
        "bbox": {"AP": 3.0, "named": 3.0},
        "night/bbox": {"AP": 5.0, "named": 5.0},
        "fog/bbox": {"AP": 2.0, "named": 2.0},
    }


def test_each_data_set_of_a_list_is_evaluated_alone(tmp_path):
    cfg = named(tmp_path)
    cfg.dataloader.test.dataset.names = ["day", "night", "fog"]
    check(train(cfg))
    rows = [json.loads(x) for x in (tmp_path / "metrics.json").read_text().splitlines()]
    assert (rows[-1]["bbox/AP"], rows[-1]["night/bbox/AP"], rows[-1]["fog/bbox/AP"]) == (3, 5, 2)
    assert json.loads((tmp_path / "model_best.json").read_text())["bbox/AP"] == 3


def test_other_data_sets_are_evaluated_under_their_names(tmp_path):
    cfg = named(tmp_path, f"train.init_checkpoint={tmp_path}/model_final.pth")
    cfg.dataloader.more_tests = {name: L(size)(names=name) for name in ("night", "fog")}
    cfg.train.init_checkpoint = ""
    check(train(cfg))
    cfg.train.init_checkpoint = f"{tmp_path}/model_final.pth"
    check(evaluate(cfg))


def test_a_list_of_one_data_set_is_that_data_set(tmp_path):
    cfg = named(tmp_path)
    cfg.dataloader.test.dataset.names = ["day"]
    assert train(cfg) == {"bbox": {"AP": 3.0, "named": 3.0}}
