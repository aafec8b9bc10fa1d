"""Interrupted runs of several processes, and runs that go on in another number of them."""

import os
import signal
import subprocess
import sys
import time

import pytest

from interruption import (
    ROOT,
    TOY,
    assert_same_run,
    finish,
    members,
    resumed,
    resumed_by_two,
    rows,
    toy,
)
from samdetr.engine import train
from samdetr.engine.hooks import Seed
from samdetr.engine.launch import EXIT_CODE

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The output folder of a run of two processes without an interruption."""
    folder = tmp_path_factory.mktemp("two")
    assert finish(*resumed_by_two(toy(folder))) == [0, 0]
    return folder


def interrupted(cfg, rank, iteration, number, ranks):
    """Train in one of several processes, some of which signal themselves."""
    step = Seed.before_step

    def before_step(hook):
        if hook.trainer.iter == iteration and rank in ranks:
            os.kill(os.getpid(), number)
        step(hook)

    Seed.before_step = before_step
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


def test_a_signal_to_the_process_that_started_the_others_stops_them_all(tmp_path):
    command = [sys.executable, ROOT / "train_net.py", "--config-file", TOY, "--num-gpus", "2"]
    command += [f"train.output_dir={tmp_path}", "train.max_iter=1000000", "train.eval_period=0"]
    path = os.pathsep.join(filter(None, sys.path))
    process = subprocess.Popen(
        [*command, "train.checkpointer.period=1000000"],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        until = time.monotonic() + 300  # a loaded machine imports everything three times
        while not (tmp_path / "metrics.json").is_file() or not rows(tmp_path):
            assert time.monotonic() < until and process.poll() is None, "it does not train"
            time.sleep(0.1)
        process.terminate()
        output, _ = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == EXIT_CODE, output
    assert "Stopped by SIGTERM after iteration" in output
    assert "Traceback" not in output
    assert (tmp_path / "last_checkpoint").read_text() in os.listdir(tmp_path)
