"""Runs of several processes: interrupted, continued in another number of them, and broken."""

import os
import random
import signal
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.utils import comm
from torch.multiprocessing import start_processes
from torch.testing import assert_close

import interruption
from interruption import (
    Measure,
    assert_same_run,
    at_iteration,
    commanded,
    finish,
    members,
    resumed,
    resumed_by_two,
    rows,
    toy,
)
from samdetr.checkpoint import Checkpointer
from samdetr.engine import Trainer, TrainingError, train
from samdetr.engine.launch import EXIT_CODE
from toy import ToyModel

pytestmark = pytest.mark.slow

START = 300  # seconds that a loaded machine may take to import everything three times


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The output folder of a run of two processes in which nothing breaks."""
    folder = tmp_path_factory.mktemp("two")
    assert finish(*resumed_by_two(toy(folder))) == [0, 0]
    return folder


def interrupted(cfg, rank, iteration, number, ranks):
    """Train in one of several processes, some of which signal themselves."""
    if rank in ranks:
        at_iteration(iteration, lambda: os.kill(os.getpid(), number))
    train(cfg, True)


def test_two_killed_processes_go_on_as_if_they_had_not_been(whole, tmp_path):
    cfg = toy(tmp_path)
    killed = members(interrupted, cfg, 4, signal.SIGKILL, (0, 1))
    assert finish(*killed) == [-signal.SIGKILL] * 2
    assert finish(*resumed_by_two(cfg)) == [0, 0]
    assert_same_run(tmp_path, whole)


def test_a_signal_to_one_of_two_processes_stops_both_after_the_same_iteration(whole, tmp_path):
    cfg = toy(tmp_path)
    stopped = members(interrupted, cfg, 7, signal.SIGTERM, (1,))
    assert finish(*stopped) == [EXIT_CODE] * 2
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000007.pth"
    assert finish(*resumed_by_two(cfg)) == [0, 0]
    assert_same_run(tmp_path, whole)


def test_a_run_of_two_processes_goes_on_in_one(whole, tmp_path):
    cfg = toy(tmp_path)
    finish(*members(interrupted, cfg, 7, signal.SIGTERM, (1,)))
    assert finish(resumed(cfg)) == [0]
    assert [row["iteration"] for row in rows(tmp_path)] == [x["iteration"] for x in rows(whole)]
    before = [row for row in rows(whole) if row["iteration"] < 7]
    assert rows(tmp_path)[: len(before)] == before


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def before(owner, name):
    """Die before the second call of a method."""
    method, calls = getattr(owner, name), []

    def call(*args, **kwargs):
        calls.append(name)
        if len(calls) == 2:
            die()
        return method(*args, **kwargs)

    setattr(owner, name, call)


MOMENTS = {
    "after the gradients": lambda: before(Trainer, "after_backward"),
    "in evaluation": lambda: before(Measure, "process"),
    "while saving": lambda: before(Checkpointer, "tag_last_checkpoint"),
}


def trained(cfg, rank, moment, dying):
    """Train; one process dies, and the other writes down what it says."""
    if rank == dying:
        MOMENTS[moment]()
    try:
        train(cfg, True)
    except TrainingError as error:
        Path(cfg.train.output_dir, "said").write_text(str(error))
        raise


# The first process is the one that saves.
@pytest.mark.parametrize(("moment", "dying"), [(x, i % 2) for i, x in enumerate(MOMENTS)])
def test_a_process_that_dies_ends_the_other_with_a_sentence(whole, tmp_path, moment, dying):
    codes = finish(*members(trained, toy(tmp_path), moment, dying))
    assert codes[dying] == -signal.SIGKILL and codes[1 - dying] == 1
    said = (tmp_path / "said").read_text()
    assert said.startswith("another process of this run has ended")
    last = tmp_path / "last_checkpoint"
    left = "there is no checkpoint yet"
    if last.is_file():
        left = f"the last good checkpoint is {tmp_path / last.read_text()}, from which --resume"
    assert left in said

    assert finish(*resumed_by_two(toy(tmp_path))) == [0, 0]
    assert_same_run(tmp_path, whole)


def launched(output, method="spawn"):
    """Have train_net.py train a toy for hours, in two processes that are started by a method."""
    endless = ["train.eval_period=0", "train.max_iter=1000000", "train.checkpointer.period=40"]

    def choose():
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        torch.multiprocessing.start_processes = partial(start_processes, start_method=method)

    output.parent.mkdir(exist_ok=True)
    return commanded(output, output.parent, *endless, "--num-gpus", "2", fault=choose)


def children(pid):
    """Processes of a run that its launcher has started."""
    found = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return [x for x in found if "spawn_main" in Path(f"/proc/{x}/cmdline").read_text()]


def wait_for(file, process):
    """Wait until a process has written a file."""
    until = time.monotonic() + START
    while not file.is_file():
        assert time.monotonic() < until and process.is_alive(), "it does not train"
        time.sleep(0.05)


def test_a_signal_to_the_process_that_started_the_others_stops_them_all(tmp_path):
    process = launched(tmp_path / "output", "fork")
    wait_for(tmp_path / "last_checkpoint", process)
    process.terminate()
    assert finish(process) == [EXIT_CODE]
    output = (tmp_path / "output").read_text()
    assert "Stopped by SIGTERM after iteration" in output
    assert "Traceback" not in output
    assert (tmp_path / "last_checkpoint").read_text() in os.listdir(tmp_path)


def test_what_has_started_the_processes_ends_when_one_dies(tmp_path):
    process = launched(tmp_path / "output")
    wait_for(tmp_path / "last_checkpoint", process)
    time.sleep(random.uniform(0, 0.5))
    workers = children(process.pid)
    assert len(workers) == 2
    os.kill(workers[1], signal.SIGKILL)
    assert finish(process)[0] not in (0, 2, 75)
    output = (tmp_path / "output").read_text()
    assert "train_net.py: another process of this run has ended" in output
    assert "of this run (pid" in output and "was killed by SIGKILL" in output
    assert "the last good checkpoint is" in output.splitlines()[-1]
    assert not any(Path(f"/proc/{x}").exists() for x in workers)


class HalfPoisoned(ToyModel):
    """Has a loss in the second process that is infinite, and has no gradient, at some steps."""

    def __init__(self, steps=(), **options):
        super().__init__(**options)
        self.steps = steps

    def forward(self, batched_inputs):
        outputs = super().forward(batched_inputs)
        if self.training:
            far = comm.get_rank() == 1 and self.calls - 1 in self.steps
            outputs["loss_far"] = torch.tensor(float("inf") if far else 0.0)
        return outputs


def skipping(cfg, rank, period):
    """Train, and save the weights of this process."""
    cfg.model = L(HalfPoisoned)(steps=[2, 5])
    cfg.train.log_period = period
    folder, model = Path(cfg.train.output_dir), []
    built = interruption.train.__globals__["build_model"]
    interruption.train.__globals__["build_model"] = lambda cfg: model.append(built(cfg)) or model[0]
    try:
        train(cfg, True)
    except TrainingError as error:
        (folder / f"said.{rank}").write_text(str(error))
    torch.save(model[0].state_dict(), folder / f"weights.{rank}")


@pytest.mark.parametrize("period", [1, 4])
def test_processes_leave_out_the_same_iterations(tmp_path, period):
    cfg = toy(tmp_path, "train.skip_nonfinite=2")
    assert finish(*members(skipping, cfg, period)) == [0, 0]
    ours, theirs = (torch.load(tmp_path / f"weights.{rank}") for rank in (0, 1))
    assert_close(ours, theirs, rtol=0, atol=0)
    assert all(x.isfinite().all() for x in ours.values())
    skipped = [row["iteration"] for row in rows(tmp_path) if "skipped_iterations" in row]
    assert skipped[-1] == 5
    steps = torch.load(tmp_path / "model_final.pth")["trainer"]["optimizer"]["state"]
    assert {float(x["step"]) for x in steps.values()} == {10.0}


def test_processes_say_which_of_them_has_failed_and_end_together(tmp_path):
    cfg = toy(tmp_path, "train.skip_nonfinite=1")
    assert finish(*members(skipping, cfg, 4)) == [0, 0]
    for rank in (0, 1):
        said = (tmp_path / f"said.{rank}").read_text()
        assert said.startswith("loss_far is inf in process 1 at iteration=5, and train.skip_")
    ours, theirs = (torch.load(tmp_path / f"weights.{rank}") for rank in (0, 1))
    assert_close(ours, theirs, rtol=0, atol=0)
