"""What happens to a run in one process when something around it breaks: it says so, and goes on."""

import errno
import json
import math
import multiprocessing
import os
import resource
import signal
from multiprocessing.util import Finalize

import pytest
import torch
from detectron2.config import LazyCall as L
from test_engine_training import TOY
from torch.utils.data import DataLoader

from interruption import assert_same_run, at_iteration, commanded, finish, resumed, toy
from samdetr.data import DataError
from samdetr.engine import TrainingError, load_config, train
from samdetr.failures import reason_of
from toy import ToyModel


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The output folder of a toy run in which nothing breaks."""
    folder = tmp_path_factory.mktemp("whole")
    assert finish(resumed(toy(folder))) == [0]
    return folder


def last_line(file):
    return file.read_text().splitlines()[-1]


def kill_workers():
    for worker in multiprocessing.active_children():
        os.kill(worker.pid, signal.SIGKILL)


@pytest.mark.slow
def test_a_killed_worker_ends_the_run_with_a_sentence(whole, tmp_path):
    output, folder = tmp_path / "output", tmp_path / "run"
    folder.mkdir()
    settings = [folder, "dataloader.train.num_workers=2"]
    process = commanded(output, *settings, fault=lambda: at_iteration(4, kill_workers))
    assert finish(process) == [1]
    said = last_line(output)
    # What torch says depends on whether a batch was on its way.
    assert said.startswith("train_net.py: a DataLoader worker died (")
    assert "set dataloader.train.num_workers and dataloader.test.num_workers lower" in said
    assert f"the last good checkpoint is {folder}/model_0000002.pth, from" in said

    assert finish(commanded(output, *settings)) == [0]
    assert_same_run(folder, whole)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), "(pid 7) is"),
        (RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"), "(pid(s) 7) exited"),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), "Connection reset"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory"), "No such file"),
        (EOFError(), "no batch"),
    ],
    ids=repr,
)
def test_a_worker_may_die_before_or_while_its_batch_is_fetched(error, words):
    reason = reason_of(error, "run")
    assert reason.startswith("a DataLoader worker died (") and words in reason


def limit_files(size):
    """Let no file of this process grow over a number of bytes, until it ends."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    unlimited = resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    Finalize(None, resource.setrlimit, unlimited, exitpriority=0)  # then coverage is written


@pytest.mark.slow
def test_a_checkpoint_that_does_not_fit_on_the_disk_leaves_the_one_before(tmp_path):
    folder, wide = tmp_path / "run", "model.dim=2000"  # checkpoints larger than the output
    folder.mkdir()
    limit = lambda: at_iteration(5, lambda: limit_files(100_000))  # noqa: E731
    assert finish(commanded(tmp_path / "output", folder, wide, fault=limit)) == [1]
    failed, last = folder / "model_0000005.pth", folder / "model_0000002.pth"
    assert last_line(tmp_path / "output").startswith(
        f"train_net.py: {failed} cannot be written: File too large; the last good checkpoint is "
        f"{last}, from which --resume continues"
    )
    assert not failed.exists() and not list(folder.glob("*.partial"))

    assert finish(commanded(tmp_path / "output", folder, wide)) == [0]
    assert finish(resumed(toy(tmp_path / "whole", wide))) == [0]
    assert_same_run(folder, tmp_path / "whole")


class Greedy(ToyModel):
    """Wants more memory than there is in a training step or, with `evaluated`, in evaluation."""

    def __init__(self, bytes_wanted=2**55, evaluated=False, **options):
        super().__init__(**options)
        self.bytes_wanted = bytes_wanted
        self.evaluated = evaluated

    def forward(self, batched_inputs):
        if self.calls == 5 or self.evaluated and not self.training:
            if not self.bytes_wanted:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB.")
            torch.empty(self.bytes_wanted, dtype=torch.uint8)
        return super().forward(batched_inputs)


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        (2**55, r"DefaultCPUAllocator: can't allocate memory: you tried to allocate 3602879"),
        (0, r"CUDA out of memory\. Tried to allocate 20 MiB\."),
    ],
)
def test_a_batch_that_does_not_fit_into_memory_is_described(tmp_path, wanted, reason):
    words = (
        r"^out of memory at iteration=5 with 4 images of 4x4, 4x4, 4x4, 4x4 \(height x width\), "
        rf"padded to 4x4, with 0 objects \({reason}.*\)\. Less is needed by a smaller "
        r"dataloader\.train\.total_batch_size, .*amp.* and by .*RecomputedDecoderLayer; the last "
        rf"good checkpoint is {tmp_path}/model_0000003\.pth"
    )
    cfg = load_config(TOY, [f"train.output_dir={tmp_path}"])
    cfg.model = L(Greedy)(bytes_wanted=wanted)
    with pytest.raises(TrainingError, match=words):
        train(cfg)


def test_what_is_not_known_keeps_its_own_error(tmp_path):
    assert reason_of(RuntimeError("mat1 and mat2 shapes cannot be multiplied"), "") == ""
    assert reason_of(FileNotFoundError(2, "No such file", "image.jpg"), "") == ""
    cfg = load_config(TOY, [f"train.output_dir={tmp_path}", "dataloader.evaluator.aps=[]"])
    with pytest.raises(IndexError):
        train(cfg)


@pytest.mark.parametrize(
    ("aps", "best"),
    [([math.nan, 3.0, math.nan, 2.0], 3.0), ([math.nan], None)],
)
def test_an_ap_that_is_not_finite_is_never_the_best(tmp_path, aps, best):
    cfg = load_config(TOY, ["train.eval_period=3", f"train.output_dir={tmp_path}"])
    cfg.dataloader.evaluator.aps = aps
    train(cfg)
    file = tmp_path / "model_best.json"
    assert file.exists() == (tmp_path / "model_best.pth").exists() == (best is not None)
    if best:
        found = json.loads(file.read_text())
        assert found["bbox/AP"] == best
        assert torch.load(tmp_path / "model_best.pth")["iteration"] == found["iteration"]


def test_a_test_set_without_images_is_refused_before_the_training(tmp_path):
    cfg = load_config(TOY, [f"train.output_dir={tmp_path}"])
    cfg.dataloader.test = L(DataLoader)(dataset=[])
    with pytest.raises(DataError, match="dataloader.test has no images"):
        train(cfg)
    assert not (tmp_path / "metrics.json").exists()
