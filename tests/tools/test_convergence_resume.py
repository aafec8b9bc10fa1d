"""The convergence study ends with the same results if it is killed in the middle."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from test_train_net import environment

import convergence_study

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
RUN = "out/detr/seed0"
TOY = [
    "train.max_iter=6",
    "train.eval_period=3",
    "train.checkpointer.period=2",
    "train.log_period=1",
    "train.device=cpu",
    "model.decoder.levels=[0]",
    "model.num_queries=10",
    "model.detections_per_image=10",
    "dataloader.test.dataset._target_=toy.few",
    "dataloader.train.total_batch_size=2",
]


ARGUMENTS = ["--run", "detr", "--seed", "0", "--jobs", "1", "--output", "out"]
ARGUMENTS += ["--results", "results.json", *TOY]


def study(folder, monkeypatch):
    """Run the tool in a folder; trainings are processes of their own."""
    folder.mkdir(exist_ok=True)
    monkeypatch.chdir(folder)
    convergence_study.main(ARGUMENTS)


def begin_study(folder):
    folder.mkdir()
    return subprocess.Popen(
        [sys.executable, ROOT / "tools/convergence_study.py", *ARGUMENTS],
        cwd=folder,
        env=environment(),
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def figures(folder):
    """The results file without what differs from one run to the next: speed."""
    contents = json.loads((folder / "results.json").read_text())
    for run in contents["runs"]:
        assert run.pop("step_seconds") > 0
    return contents


def test_a_study_killed_in_the_middle_has_the_same_results_when_it_is_resumed(
    tmp_path, monkeypatch, capfd
):
    for name, value in environment(CUDA_VISIBLE_DEVICES="").items():
        monkeypatch.setenv(name, value)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    study(whole, monkeypatch)
    process = begin_study(killed)
    while not (killed / RUN / "last_checkpoint").is_file():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (killed / RUN / "model_final.pth").exists()

    study(killed, monkeypatch)

    assert figures(killed) == figures(whole)
    assert [run["iterations"] for run in figures(whole)["runs"]] == [[3, 6]]
    weights, expected = (
        torch.load(folder / RUN / "model_final.pth")["model"] for folder in (killed, whole)
    )
    for name, tensor in expected.items():
        assert torch.equal(weights[name], tensor), name
    capfd.readouterr()
    study(killed, monkeypatch)
    assert "1 of 1 trainings are done" in capfd.readouterr().out
