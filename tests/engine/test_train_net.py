"""train_net.py from the command line, on the small data set, in one process and in several."""

import json
import re
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig
from detectron2.utils.env import seed_all_rng
from torch.distributed.launcher import LaunchConfig, elastic_launch

import command_line
from interruption import finish, start
from samdetr.engine import build_model, evaluate, load_config, train

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
MINI = ROOT / "configs/mini/sam_detr_smca.py"
TOY = ROOT / "tests/toy_config.py"
SMALL = [
    "model.decoder.levels=[0]",
    "model.num_queries=10",
    "model.detections_per_image=10",
    "dataloader.test.dataset._target_=toy.few",
    "dataloader.train.mapper.augmentations=[]",
    "dataloader.train.total_batch_size=4",
    "dataloader.train.num_workers=0",
    "train.device=cpu",
    "train.seed=0",
    "train.log_period=1",
    "train.eval_period=0",
]


def rows(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def in_process(config, folder, *overrides, resume=False):
    """What train_net.py does in one process, in this one; `folder` must be the working folder."""
    folder.mkdir(exist_ok=True)
    seed_all_rng(0)
    return train(load_config(str(config), [f"train.output_dir={folder}", *overrides]), resume)


def test_shipped_checkpoint_has_the_figures_of_the_readme(tmp_path):
    readme = (ROOT / "README.md").read_text().replace("\n", " ")
    stated = re.search(r"AP on `mini_val` is ([\d.]+), AP50 ([\d.]+), AP75 ([\d.]*\d)", readme)
    (weights,) = re.findall(r"train.init_checkpoint=(\S+weights\S+)", readme)

    cfg = load_config(str(MINI), [f"train.output_dir={tmp_path}", "train.device=cpu"])
    cfg.train.init_checkpoint = str(ROOT / weights)
    found = evaluate(cfg)["bbox"]

    figures = [found[name] for name in ("AP", "AP50", "AP75")]
    assert figures == pytest.approx([float(x) for x in stated.groups()], abs=0.1)
    assert (ROOT / weights).stat().st_size <= 4_000_000


def test_eval_only_prints_the_figures_of_a_checkpoint(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cfg = load_config(str(MINI), [*SMALL, "train.init_checkpoint=model.pth"])
    torch.save({"model": build_model(cfg).state_dict()}, "model.pth")
    LazyConfig.save(cfg, "config.yaml")
    figures = evaluate(cfg)["bbox"]

    code = command_line.train_net("--config-file", "config.yaml", "--trusted-config", "--eval-only")

    output = capsys.readouterr().out
    assert code == 0, output
    assert "|  AP   |  AP50  |" in output
    assert f"{figures['AP']:.4f},{figures['AP50']:.4f}" in output


def check_toy_run(folder):
    """The processes in `folder` have trained and evaluated together, as one process does."""
    one = folder.with_name("one")
    in_process(TOY, one)
    expected, weights = (torch.load(x / "model_final.pth")["model"] for x in (one, folder))
    for name, weight in weights.items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-4, atol=1e-5)
    assert rows(folder / "metrics.json")[-1]["bbox/images"] == 3.0


def torchrun(*arguments):
    """What the command of this name does, but for its processes, which are forked."""
    options = LaunchConfig(1, 1, 2, rdzv_backend="c10d", rdzv_endpoint="127.0.0.1:0")
    options.start_method = "fork"
    codes = elastic_launch(options, command_line.train_net)(*arguments)
    assert codes == {0: 0, 1: 0}


def test_it_runs_under_torchrun(tmp_path):
    folder = tmp_path / "output"
    process = start(torchrun, "--config-file", TOY, f"train.output_dir={folder}")
    assert finish(process) == [0]
    check_toy_run(folder)


def test_an_error_is_one_line_and_exit_code_2(tmp_path, capsys):
    code = command_line.train_net(
        "--config-file", TOY, f"train.output_dir={tmp_path}", "train.init_checkpoint=no.pth"
    )
    assert code == 2
    output = capsys.readouterr().err
    assert "train_net.py: no.pth is not a file: train.init_checkpoint=PATH names" in output
    assert "Traceback" not in output
