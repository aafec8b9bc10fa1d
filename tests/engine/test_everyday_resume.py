"""With EMA, accumulation, early stop, frozen parts or mosaics, a killed run is the whole one."""

import signal

import pytest
import torch
from detectron2.config import LazyCall as L
from test_engine_resume import signalled
from torch.testing import assert_close

from interruption import assert_same_run, finish, mini, resumed, start, toy
from samdetr.data import MixUp, Mosaic

pytestmark = pytest.mark.slow

EVERYDAY = (
    "train.ema.enabled=True",
    "train.ema.decay=0.9",
    "train.ema.warmup=4",
    "train.accumulate=2",
    "train.freeze=[norm]",
    "train.early_stop.patience=2",
    "train.early_stop.min_gain=100",  # the first evaluation is the last gain
    "train.max_iter=40",
    "optimizer.base_batch_size=4",
)


@pytest.mark.parametrize("moment", [4, 7])
def test_a_killed_everyday_run_is_the_uninterrupted_one(tmp_path, moment):
    folders = [tmp_path / name for name in ("whole", "killed")]
    whole, killed = (toy(folder, *EVERYDAY) for folder in folders)
    assert finish(resumed(whole)) == [0]
    folders[1].mkdir()
    assert finish(start(signalled, killed, moment)) == [-signal.SIGKILL]
    assert finish(resumed(killed)) == [0]
    assert_same_run(*folders[::-1], gaps=True)
    ends = [torch.load(folder / "model_final.pth") for folder in folders]
    assert [end["iteration"] for end in ends] == [8, 8]  # evaluated at 2, 5 and 8
    one, two = (end["trainer"]["hooks"] for end in ends)
    assert_close(one["EMA"], two["EMA"], rtol=0, atol=0)
    assert one["EarlyStop"] == two["EarlyStop"] and one["EarlyStop"]["waited"] == 2


def with_mosaics(folder):
    cfg = mini(folder)
    cfg.dataloader.train.mapper.mixing = [L(Mosaic)(size=96, prob=0.7), L(MixUp)(prob=0.5)]
    return cfg


def test_a_killed_run_with_mosaics_is_the_uninterrupted_one(tmp_path):
    folders = [tmp_path / name for name in ("whole", "killed")]
    assert finish(resumed(with_mosaics(folders[0]))) == [0]
    folders[1].mkdir()
    killed = with_mosaics(folders[1])
    assert finish(start(signalled, killed, 7)) == [-signal.SIGKILL]
    assert finish(resumed(killed)) == [0]
    assert_same_run(*folders[::-1], gaps=True)
    plain = tmp_path / "plain"
    assert finish(resumed(mini(plain))) == [0]
    weights = [torch.load(x / "model_final.pth")["model"] for x in (folders[0], plain)]
    assert any((x != y).any() for x, y in zip(*(w.values() for w in weights)))
