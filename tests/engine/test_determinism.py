"""The same seed gives the same run, whatever reads the images and however often it is asked."""

import random

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from interruption import assert_same_run, finish, mini, resumed, toy
from samdetr.randomness import seed_all, seeded, use_deterministic_algorithms

pytestmark = pytest.mark.slow

DETERMINISTIC = ("train.deterministic=true", "train.max_iter=6")


def draw():
    return random.random(), np.random.uniform(), torch.rand(()).item()


@pytest.fixture
def torchs_own_algorithms():
    """Puts back what a test sets."""
    benchmark = torch.backends.cudnn.benchmark
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = benchmark


@pytest.fixture(scope="module")
def deterministic(tmp_path_factory):
    """The output folder of a deterministic training of a small model."""
    folder = tmp_path_factory.mktemp("deterministic")
    assert finish(resumed(mini(folder, *DETERMINISTIC))) == [0]
    return folder


def test_the_weights_do_not_depend_on_the_number_of_workers(tmp_path, deterministic):
    cfg = mini(tmp_path, *DETERMINISTIC)
    cfg.dataloader.train.num_workers = 2
    assert finish(resumed(cfg)) == [0]
    assert_same_run(tmp_path, deterministic)


def test_a_drawn_seed_is_logged_kept_and_makes_the_run_again(tmp_path):
    drawn, cfg = tmp_path / "drawn", toy(tmp_path / "drawn", "train.seed=-1", "train.max_iter=6")
    assert finish(resumed(cfg)) == [0]
    seed = torch.load(drawn / "model_final.pth")["trainer"]["hooks"]["Seed"]["seed"]
    assert seed >= 0
    # Another is drawn, and gives way to that of the checkpoint.
    assert finish(resumed(toy(drawn, "train.seed=-1"))) == [0]
    again = toy(tmp_path / "again", f"train.seed={seed}", "train.max_iter=6")
    assert finish(resumed(again)) == [0]
    assert finish(resumed(toy(tmp_path / "again", f"train.seed={seed}"))) == [0]
    ours, theirs = (torch.load(x / "model_final.pth")["model"] for x in (drawn, tmp_path / "again"))
    assert_close(ours, theirs, rtol=0, atol=0)


def test_numbers_are_a_function_of_seed_and_place():
    found = {}
    for seed in (0, 1, 2**31):
        for place in ((), (0,), (1,), (0, 0), (0, 1), (1, 0), (10**9,)):
            seed_all(seed, *place)
            found[seed, place] = draw()
    assert len(set(found.values())) == len(found)
    for (seed, place), expected in found.items():
        with seeded(seed, *place):
            assert draw() == expected


def test_what_was_seeded_for_a_while_is_put_back():
    seed_all(3)
    expected = [draw() for _ in range(2)]
    seed_all(3)
    first = draw()
    with pytest.raises(KeyError), seeded(4):
        draw()
        raise KeyError
    assert [first, draw()] == expected


def test_torch_is_asked_for_deterministic_algorithms(monkeypatch, torchs_own_algorithms):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    torch.backends.cudnn.benchmark = True
    use_deterministic_algorithms()
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.is_deterministic_algorithms_warn_only_enabled()
    assert not torch.backends.cudnn.benchmark
