"""The training loader: what it gives is a function of seed and position, and of nothing else."""

import itertools
import random
from collections import Counter

import numpy as np
import pytest
import torch
from detectron2.data.samplers import RepeatFactorTrainingSampler, TrainingSampler
from detectron2.utils import comm
from torch.utils.data import SequentialSampler

from samdetr.data import DataError, build_train_loader
from samdetr.data.loading import PlacedBatches

SIZES = [(40, 30), (30, 40), (30, 30), (50, 20), (20, 50), (60, 30), (30, 60)]
RECORDS = [{"image_id": i, "width": w, "height": h} for i, (w, h) in enumerate(SIZES)]


def augment(record):
    """Draws from all generators that an augmentation may draw from."""
    record["drawn"] = (random.random(), np.random.uniform(), torch.rand(()).item())
    return record


def skipping(record):
    return augment(record) if record["image_id"] % 3 == 0 else None


def loader(size=4, seed=3, start=0, mapper=augment, **settings):
    made = build_train_loader(RECORDS, mapper=mapper, total_batch_size=size, seed=seed, **settings)
    made.seek(start)
    return made


def batches(count, **settings):
    return list(itertools.islice(loader(**settings), count))


@pytest.fixture
def as_process(monkeypatch):
    """Makes this process one of several."""

    def become(rank, processes):
        monkeypatch.setattr(comm, "get_rank", lambda: rank)
        monkeypatch.setattr(comm, "get_world_size", lambda: processes)

    return become


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("start", [0, 5])
def test_batches_do_not_depend_on_workers_nor_on_where_the_loader_starts(workers, start):
    expected = batches(9)
    found = batches(9 - start, num_workers=workers, start=start)
    assert found == expected[start:]


def test_another_seed_is_another_order_and_other_augmentations():
    first, second = batches(4), batches(4, seed=4)
    ids = [[x["image_id"] for batch in found for x in batch] for found in (first, second)]
    assert ids[0] != ids[1]
    drawn = [x["drawn"] for found in (first, second) for batch in found for x in batch]
    assert len(set(drawn)) == len(drawn) == 32


def test_every_image_comes_once_an_epoch():
    found = batches(7, size=1, aspect_ratio_grouping=False)
    assert sorted(x["image_id"] for (x,) in found) == list(range(7))


def test_images_of_a_batch_are_all_upright_or_all_lying_and_none_is_lost():
    found = batches(200, size=2)
    for first, second in found:
        assert (first["width"] > first["height"]) == (second["width"] > second["height"])
    counts = Counter(x["image_id"] for batch in found for x in batch)
    assert set(counts) == set(range(7))
    assert max(counts.values()) - min(counts.values()) <= 2  # what waits for its like


@pytest.mark.parametrize("grouped", [True, False])
def test_processes_share_the_groups_of_one_order(as_process, grouped):
    expected = batches(12, size=2, aspect_ratio_grouping=grouped)
    for rank in range(3):
        as_process(rank, 3)
        share = batches(4, size=6, aspect_ratio_grouping=grouped)
        assert share == expected[rank::3]


def test_other_processes_go_on_with_the_same_images(as_process):
    whole = batches(6, size=6, aspect_ratio_grouping=False)
    shares = []
    for rank in range(3):
        as_process(rank, 3)
        shares.append(batches(3, size=6, start=3, aspect_ratio_grouping=False))
    assert [sum(batch, []) for batch in zip(*shares)] == whole[3:]


@pytest.mark.parametrize("workers", [0, 2])
def test_the_generators_of_the_model_are_left_alone(workers):
    def draw():
        return random.random(), np.random.uniform(), torch.rand(()).item()

    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    expected = [draw() for _ in range(3)]
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    iterator = iter(loader(num_workers=workers))
    assert [(next(iterator), draw())[1] for _ in range(3)] == expected


def test_an_image_that_the_mapper_leaves_out_has_the_same_substitute_everywhere():
    expected = batches(6, mapper=skipping)
    assert {x["image_id"] for batch in expected for x in batch} == {0, 3, 6}
    assert batches(3, mapper=skipping, start=3, num_workers=2) == expected[3:]
    with pytest.raises(DataError, match="left out 10 images at position"):
        batches(1, mapper=lambda record: None)


def test_repeated_images_are_ordered_by_the_seed_of_their_sampler():
    factors = torch.tensor([1.5] * 7)
    found = [
        batches(8, sampler=RepeatFactorTrainingSampler(factors, seed=seed), start=start)
        for seed, start in ((5, 0), (5, 4), (6, 0))
    ]
    assert found[0][4:] == found[1][:4]
    assert found[0] != found[2]


def test_the_position_of_a_long_run_is_found_without_reading_an_image():
    sampler = TrainingSampler(100_000, seed=0)
    upright = [index % 3 == 0 for index in range(100_000)]
    places = PlacedBatches(sampler, upright, batch_size=16)
    places.start = 62_500  # a million images

    batch = next(iter(places))

    assert len(batch) == 16 and len({upright[index] for _, index in batch}) == 1
    assert all(abs(position - 1_000_000) < 100 for position, _ in batch)


def test_what_cannot_be_shared_or_ordered_is_refused(as_process):
    with pytest.raises(DataError, match="SequentialSampler, must be one of Detectron2's"):
        loader(sampler=SequentialSampler(RECORDS))
    with pytest.raises(DataError, match="total_batch_size is 0, must be a positive multiple of 1"):
        loader(size=0)
    as_process(0, 3)
    with pytest.raises(DataError, match="total_batch_size is 4, must be .* of 3, the number of"):
        loader(size=4)


def test_a_seed_of_minus_one_is_drawn():
    np.random.seed(0)
    first, second = batches(3, seed=-1), batches(3, seed=-1)
    assert first != second
