"""A run that is interrupted and resumed is, to the last bit, the run that was not."""

import hashlib
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer

import samdetr.checkpoint as checkpoint
from interruption import (
    assert_same_run,
    at_iteration,
    finish,
    kill,
    mini,
    resumed,
    rows,
    start,
    toy,
)
from samdetr.checkpoint import Checkpointer
from samdetr.engine import train
from samdetr.engine.launch import EXIT_CODE
from toy import ToyModel

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("SAMDETR_KILLS", 2))  # at random moments


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The output folder of a toy run without an interruption."""
    folder = tmp_path_factory.mktemp("whole")
    assert finish(resumed(toy(folder))) == [0]
    return folder


def test_a_run_killed_at_random_moments_is_the_uninterrupted_one(tmp_path):
    iterations = f"train.max_iter={6 * KILLS}"
    began = time.monotonic()
    assert finish(resumed(mini(tmp_path / "whole", iterations))) == [0]
    duration = time.monotonic() - began
    moments, codes = random.Random(KILLS), []
    killed = mini(tmp_path / "killed", iterations)
    for _ in range(KILLS):
        process = resumed(killed)
        process.join(moments.uniform(0.2, 1) * duration / KILLS)
        codes += kill(process)

    print(f"{codes.count(-signal.SIGKILL)} kills in {6 * KILLS} iterations")
    assert -signal.SIGKILL in codes
    assert finish(resumed(killed)) == [0]
    assert_same_run(tmp_path / "killed", tmp_path / "whole", gaps=True)


def killing(function, number, calls):
    """The function, before whose call of a number the process is killed."""

    def call(*args, **kwargs):
        calls.append(function.__name__)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)

    return call


def killed_at_call(cfg, number=0):
    """Train until something is flushed, renamed, deleted or hashed for a number of times."""
    calls = []
    checkpoint.sha256 = killing(checkpoint.sha256, number, calls)
    checkpoint.os.fsync = killing(os.fsync, number, calls)
    for name in ("replace", "unlink"):
        setattr(Path, name, killing(getattr(Path, name), number, calls))
    train(cfg, True)
    Path(cfg.train.output_dir, "calls").write_text(" ".join(calls))


def test_a_run_killed_at_any_step_of_writing_is_the_uninterrupted_one(tmp_path):
    whole, falling = tmp_path / "whole", "dataloader.evaluator.sign=-1"  # the first is the best
    whole.mkdir()
    assert finish(start(killed_at_call, toy(whole, falling))) == [0]
    calls = (whole / "calls").read_text().split()
    first, second, *_ = (i for i, call in enumerate(calls) if call == "sha256")
    assert second - first > 8
    for moment in range(first - 2, second + 6, 3):
        folder = tmp_path / str(moment)
        folder.mkdir()
        assert finish(start(killed_at_call, toy(folder, falling), moment + 1)) == [-signal.SIGKILL]
        assert finish(resumed(toy(folder, falling))) == [0]
        assert_same_run(folder, whole, gaps=True)


def test_a_run_killed_in_an_evaluation_makes_up_for_it(whole, tmp_path):
    killer = tmp_path / "killer"
    killer.touch()
    cfg = toy(tmp_path, f"dataloader.evaluator.killed={killer}")
    assert finish(resumed(cfg)) == [-signal.SIGKILL]
    assert {row["iteration"] for row in rows(tmp_path)} == set()
    assert finish(resumed(cfg)) == [0]
    assert_same_run(tmp_path, whole)


def signalled(cfg, iteration, number=signal.SIGKILL):
    """Train; the process signals itself in the middle of an iteration."""
    at_iteration(iteration, lambda: os.kill(os.getpid(), number))
    train(cfg, True)


def broken(file, damage):
    """Damage a checkpoint as a disk may."""
    content = file.read_bytes()
    if damage == "lost":
        file.unlink()
    else:
        half = len(content) // 2
        file.write_bytes(content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :])


@pytest.mark.parametrize("damage", ["changed", "lost"])
def test_of_a_damaged_checkpoint_the_one_before_is_taken(whole, tmp_path, damage):
    assert finish(start(signalled, toy(tmp_path), 8)) == [-signal.SIGKILL]
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000005.pth"
    broken(tmp_path / "model_0000005.pth", damage)

    assert Checkpointer(ToyModel(), str(tmp_path)).newest() == str(tmp_path / "model_0000002.pth")
    assert finish(resumed(toy(tmp_path))) == [0]
    assert_same_run(tmp_path, whole)


def test_a_checkpoint_is_detectron2s_and_needs_no_checksum(whole, tmp_path):
    assert finish(start(signalled, toy(tmp_path), 8)) == [-signal.SIGKILL]
    for file in tmp_path.glob("*.sha256"):
        digest, name = file.read_text().split()
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == digest
        file.unlink()
    model = ToyModel()
    others = DetectionCheckpointer(model, str(tmp_path)).resume_or_load("", resume=True)
    assert others["iteration"] == 5
    saved = torch.load(tmp_path / "model_0000005.pth")["model"]
    torch.testing.assert_close(dict(model.state_dict()), dict(saved), rtol=0, atol=0)

    assert finish(resumed(toy(tmp_path))) == [0]
    assert_same_run(tmp_path, whole)


def test_what_cannot_be_written_leaves_what_was_there(tmp_path):
    checkpointer = Checkpointer(ToyModel(), str(tmp_path))
    checkpointer.save("model_0000001", iteration=1)
    with pytest.raises(OSError, match="disk full"):
        checkpointer.save("model_0000001", full=Unwritable())
    assert checkpointer.newest() == str(tmp_path / "model_0000001.pth")
    assert torch.load(tmp_path / "model_0000001.pth")["iteration"] == 1
    assert not list(tmp_path.glob("*.partial"))


class Unwritable:
    def __reduce__(self):
        raise OSError("disk full")


@pytest.mark.parametrize(
    ("number", "iteration"), [(signal.SIGTERM, 0), (signal.SIGUSR1, 9), (signal.SIGTERM, 11)]
)
def test_a_signal_saves_at_the_end_of_the_iteration_and_stops(whole, tmp_path, number, iteration):
    cfg = toy(tmp_path)
    assert finish(start(signalled, cfg, iteration, number)) == [EXIT_CODE]
    last = (tmp_path / "last_checkpoint").read_text()
    assert last == (f"model_{iteration:07}.pth" if iteration < 11 else "model_final.pth")
    assert finish(resumed(cfg)) == [0]
    assert_same_run(tmp_path, whole)


def test_workers_outlive_a_signal_to_all_processes(whole, tmp_path):
    cfg = toy(tmp_path, "dataloader.train.num_workers=2")
    process = start(signalled_with_its_workers, cfg)
    assert finish(process) == [EXIT_CODE]
    assert finish(resumed(cfg)) == [0]
    assert_same_run(tmp_path, whole)


def signalled_with_its_workers(cfg):
    at_iteration(4, signal_group)
    train(cfg, True)


def signal_group():
    # From a process of its own: what their parent sends does end the workers.
    command = ["kill", "-TERM", "--", f"-{os.getpgid(0)}"]
    subprocess.run(command, start_new_session=True, check=True)
    time.sleep(0.3)  # for the workers to die in, if they do
