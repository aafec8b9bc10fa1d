"""The commands of docs/training.md, at a tiny size."""

import json
import re
import shlex
from pathlib import Path

import pytest
import torch

from command_line import train_net
from samdetr.data import SceneParameters, write_mini

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
FULL, TINY = "coco/sam_detr_pp_convnext_t_smca_dn_12ep", "mini/sam_detr_pp_convnext_smca_dn"
SMALL = [
    "model.decoder.levels=[2,1]",
    "model.encoder.num_layers=1",
    "model.num_queries=10",
    "train.device=cpu",
    "train.init_checkpoint=",
    "train.log_period=1",
    "dataloader.train.num_workers=0",
]


def documented_commands():
    text = (ROOT / "docs/training.md").read_text().replace("\\\n", " ").replace(FULL, TINY)
    return [shlex.split(x) for x in re.findall(r"^    python train_net.py (.*)$", text, re.M)]


def write_export(folder, seed, counts):
    """Digits as Roboflow exports them."""
    write_mini(folder, SceneParameters(seed=seed), counts)
    for part in counts:
        (folder / f"{part}.json").rename(folder / part / "_annotations.coco.json")


def test_the_documented_commands_train_resume_and_evaluate(tmp_path, monkeypatch):
    for name in ("configs", "projects"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    write_export(tmp_path / "mydata", 1, {"train": 8, "val": 3})
    write_export(tmp_path / "night", 2, {"val": 2})
    training, resuming, evaluation = documented_commands()

    assert train_net(*training, *SMALL, "train.epochs=1") == 0
    output = tmp_path / "output/mine"
    first = torch.load(output / "model_final.pth")
    assert first["iteration"] == 0  # 8 images, 4 batches of 4
    assert list(output.glob("wandb/offline-run-*"))
    assert train_net(*resuming, *SMALL, "train.epochs=4") == 0
    last = torch.load(output / "model_final.pth")
    assert last["iteration"] == 1
    rates = {x["initial_lr"] for x in last["trainer"]["optimizer"]["param_groups"]}
    assert rates == {1e-5}
    (output / "metrics.json").read_text()
    assert train_net(*evaluation, *SMALL) == 0
    rows = [json.loads(x) for x in (output / "metrics.json").read_text().splitlines()]
    assert {"bbox/AP", "night/bbox/AP"} <= rows[-1].keys()
    for folder in ("inference", "inference/night"):
        assert (output / folder / "coco_instances_results.json").is_file()
