"""Trainings in processes of their own, to be killed and resumed, and what they train.

Processes are forked: they need no time to import anything.
"""

import json
import multiprocessing
import os
import signal
import socket
import sys
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from detectron2.config import LazyCall as L
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from torch.nn import functional as F
from torch.testing import assert_close

from command_line import train_net
from samdetr.data import load_detection_dataset
from samdetr.engine import load_config, train
from samdetr.engine.hooks import Seed
from samdetr.engine.launch import Place, _join
from toy import ToyModel, sample

ROOT = Path(__file__).parents[1]
TOY = str(Path(__file__).with_name("resumed_config.py"))
MINI = str(ROOT / "configs/mini/sam_detr_smca_dn.py")
TIMES = {"time", "data_time", "rank_data_time", "eta_seconds"}


class NoisyModel(ToyModel):
    """Draws random numbers in its training step."""

    def forward(self, batched_inputs):
        if self.training:
            batched_inputs = [{"image": F.dropout(x["image"], 0.3)} for x in batched_inputs]
        return super().forward(batched_inputs)


def records():
    """Ten images, of which every third is upright."""
    shapes = [(30, 40) if i % 3 == 0 else (40, 30) for i in range(10)]
    return [{"image_id": i, "width": w, "height": h} for i, (w, h) in enumerate(shapes)]


def noisy(record):
    """A mapper that draws an augmentation."""
    image = sample(record["image_id"])["image"] + torch.tensor(np.random.uniform(size=(3, 1, 1)))
    return {**record, "image": image.float()}


class Measure(DatasetEvaluator):
    """An AP that tells models apart: the mean score. Kills its process when it is told to.

    Args:
        killed: file that, as long as it is there, makes the process take it away and die.
        sign: of the AP.
    """

    def __init__(self, killed="", sign=1):
        self.killed = Path(killed or "no such file")
        self.sign = sign

    def reset(self):
        self.scores = []

    def process(self, inputs, outputs):
        if self.killed.is_file():
            self.killed.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        self.scores += [float(x["instances"].scores.mean()) for x in outputs]

    def evaluate(self):
        scores = comm.gather(self.scores)
        if not comm.is_main_process():
            return {}
        return {"bbox": {"AP": self.sign * float(np.mean(sum(scores, [])))}}


@lru_cache
def few(names):
    """The first images of a data set, loaded once."""
    return load_detection_dataset(names)[:40]


def toy(folder, *overrides):
    """A config of 12 iterations with 4 checkpoints and evaluations, metrics read late."""
    return load_config(TOY, [f"train.output_dir={folder}", *overrides])


def mini(folder, *overrides):
    """A small SAM-DETR++ with denoising queries, whose noise is random, on images of `mini`."""
    cfg = load_config(MINI, [f"train.output_dir={folder}"])
    cfg.model.decoder.levels = [0]
    cfg.model.num_queries = 10
    for part, name in (("train", "mini_train"), ("test", "mini_val")):
        cfg.dataloader[part].dataset = L(few)(names=name)
        cfg.dataloader[part].num_workers = 0
    cfg.dataloader.train.total_batch_size = 2
    cfg.dataloader.train.num_workers = 1
    cfg.dataloader.evaluator = L(Measure)()
    cfg.train.update(device="cpu", seed=1, max_iter=12, log_period=3, eval_period=5)
    cfg.train.checkpointer.period = 2
    for override in overrides:
        key, value = override.split("=")
        cfg.train[key.removeprefix("train.")] = json.loads(value)
    return cfg


def start(function, *args):
    """Call a function in a forked process that leads a group of its own."""
    process = multiprocessing.get_context("fork").Process(target=_lead, args=(function, args))
    process.start()
    return process


def _lead(function, args):
    os.setpgrp()
    signal.alarm(120)  # no test is to leave a process behind
    torch.set_num_threads(1)
    function(*args)


def commanded(output, folder, *overrides, fault=None):
    """Call train_net.py for a toy with --resume in a process of its own.

    Args:
        output: file of all that it says.
        fault: called at the start of the process.
    """
    arguments = ["--config-file", TOY, "--resume", f"train.output_dir={folder}", *overrides]
    return start(_command, output, arguments, fault)


def _command(output, arguments, fault):
    with open(output, "w") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    sys.stdout, sys.stderr = (os.fdopen(stream, "w", 1) for stream in (1, 2))
    if fault:
        fault()
    sys.exit(train_net(*arguments))


def at_iteration(iteration, action):
    """Have the training of this process do something before an iteration."""
    step = Seed.before_step

    def before_step(hook):
        if hook.trainer.iter == iteration:
            action()
        step(hook)

    Seed.before_step = before_step


def resumed(cfg):
    """Train in a process of its own, from the last checkpoint on if there is one."""
    Path(cfg.train.output_dir).mkdir(exist_ok=True)
    return start(train, cfg, True)


def resumed_by_two(cfg):
    """Train in two processes that talk by GLOO."""
    return members(_train, cfg)


def members(function, cfg, *args):
    """Call a function with a config and its rank, in each of two processes that talk by GLOO."""
    Path(cfg.train.output_dir).mkdir(exist_ok=True)
    return pair(lambda rank: function(cfg, rank, *args))


def pair(function, *args):
    """Call a function with its rank, in each of two processes that talk by GLOO."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    return [start(_join_in, port, rank, function, *args) for rank in range(2)]


def _join_in(port, rank, function, *args):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    _join(Place(rank, 2, rank, 2))
    function(rank, *args)


def _train(cfg, rank):
    train(cfg, True)


def finish(*processes):
    """Wait, and return the exit codes."""
    for process in processes:
        process.join(60)
        assert process.exitcode is not None, "it hangs"
    return [process.exitcode for process in processes]


def kill(*processes):
    """Kill processes and all of their groups, and return the exit codes."""
    for process in processes:
        if process.is_alive():
            os.killpg(process.pid, signal.SIGKILL)
    return finish(*processes)


def rows(folder):
    """The lines of metrics.json, less times; those written at once have no order of theirs."""
    lines = map(json.loads, (Path(folder) / "metrics.json").read_text().splitlines())
    found = [{key: row[key] for key in row if key not in TIMES} for row in lines]
    return sorted(found, key=lambda row: (row["iteration"], sorted(row)))


def measured(folder):
    """Learning rates and APs in metrics.json by iteration; none is there twice."""
    names = ("lr", "bbox/AP")
    found = [((row["iteration"], x), row[x]) for row in rows(folder) for x in names if x in row]
    assert len(dict(found)) == len(found)
    return dict(found)


def assert_same_run(folder, expected, gaps=False):
    """Weights, optimiser, evaluations and the best model are the same to the last bit.

    Args:
        gaps: whether a line of metrics.json may be missing, as after a kill between a checkpoint
            and the line of the same iteration.
    """
    for name in ("model_final.pth", "model_best.pth"):
        ours, theirs = (torch.load(Path(x) / name) for x in (folder, expected))
        assert_close(ours["model"], theirs["model"], rtol=0, atol=0)
        assert ours["iteration"] == theirs["iteration"]
    ours, theirs = (torch.load(Path(x) / "model_final.pth")["trainer"] for x in (folder, expected))
    assert_close(ours["optimizer"]["state"], theirs["optimizer"]["state"], rtol=0, atol=0)
    ours, theirs = measured(folder), measured(expected)
    assert all(ours[key] == theirs[key] for key in ours.keys() & theirs.keys())
    assert gaps or ours.keys() >= theirs.keys()
    best = [(Path(x) / "model_best.json").read_text() for x in (folder, expected)]
    assert best[0] == best[1]
