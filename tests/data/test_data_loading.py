"""The training loader: what it gives is a function of seed and position, and of nothing else."""

import itertools
import logging
import random
from collections import Counter

import numpy as np
import pytest
import torch
from detectron2.data.samplers import (
    TrainingSampler,
)
from detectron2.utils import comm
from PIL import Image
from torch.utils.data import SequentialSampler

from samdetr.data import DataError, DetectionMapper, ImageError, build_train_loader
from samdetr.data.loader import PlacedBatches

SIZES = [(40, 30), (30, 40), (30, 30), (50, 20), (20, 50), (60, 30), (30, 60)]
RECORDS = [{"image_id": i, "width": w, "height": h} for i, (w, h) in enumerate(SIZES)]


def augment(record):
    """Draws from all generators that an augmentation may draw from."""
    record["drawn"] = (random.random(), np.random.uniform(), torch.rand(()).item())
    return record


def skipping(record):
    return augment(record) if record["image_id"] % 3 == 0 else None


def failing(record):
    """A mapper that cannot read images 2 and 5."""
    if record["image_id"] in (2, 5):
        raise ImageError(f"cannot read image {record['image_id']}.jpg")
    return augment(record)


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


@pytest.mark.parametrize(("workers", "start"), [(0, 5), (1, 0), (2, 5)])
def test_batches_do_not_depend_on_workers_nor_on_where_the_loader_starts(workers, start):
    expected = batches(9)
    found = batches(9 - start, num_workers=workers, start=start)
    assert found == expected[start:]


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


def test_images_without_a_size_form_a_batch():
    records = [{"file_name": f"{i}.jpg", "image_id": i} for i in range(3)]
    made = build_train_loader(records, mapper=augment, total_batch_size=3, seed=0)
    assert {x["image_id"] for x in next(iter(made))} == {0, 1, 2}


@pytest.mark.parametrize("grouped", [True, False])
def test_processes_share_the_groups_of_one_order(as_process, grouped):
    expected = batches(12, size=2, aspect_ratio_grouping=grouped)
    for rank in range(3):
        as_process(rank, 3)
        share = batches(4, size=6, aspect_ratio_grouping=grouped)
        assert share == expected[rank::3]


def test_an_image_that_the_mapper_leaves_out_has_the_same_substitute_everywhere():
    expected = batches(6, mapper=skipping)
    assert {x["image_id"] for batch in expected for x in batch} == {0, 3, 6}
    assert batches(3, mapper=skipping, start=3, num_workers=2) == expected[3:]
    with pytest.raises(DataError, match="skipped 10 images at position"):
        batches(1, mapper=lambda record: None)


@pytest.mark.parametrize(("workers", "start"), [(0, 4), (3, 0), (2, 4)])
def test_an_unreadable_image_has_the_same_substitute_wherever_a_run_goes_on(workers, start):
    expected = batches(9, mapper=failing, max_unreadable=2)
    assert {x["image_id"] for batch in expected for x in batch} == {0, 1, 3, 4, 6}
    found = batches(9 - start, mapper=failing, max_unreadable=2, num_workers=workers, start=start)
    assert found == expected[start:]
    whole = batches(9)
    for batch, same in zip(expected, whole):  # readable images are as if nothing were broken
        assert all(x == y for x, y in zip(batch, same) if y["image_id"] not in (2, 5))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_image_is_told_once_and_one_too_many_is_the_end(workers, caplog):
    caplog.set_level(logging.WARNING, "samdetr")
    made = loader(mapper=failing, max_unreadable=2, num_workers=workers)
    assert sum(1 for _ in itertools.islice(made, 20)) == 20  # each of them came several times
    assert sorted(x.split(".")[0] for x in made.unreadable) == [
        f"cannot read image {i}" for i in (2, 5)
    ]
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2 and "(1 of at most 2)" in told[0] and "(2 of at most 2)" in told[1]
    assert sorted(x.split(".")[0] for x in told) == [f"cannot read image {i}" for i in (2, 5)]

    said = r"image \d\.jpg\. 2 images .*max_unreadable is 1"
    with pytest.raises(DataError, match=said) as error:
        list(itertools.islice(loader(mapper=failing, max_unreadable=1, num_workers=workers), 20))
    last = int(str(error.value).removeprefix("cannot read image ")[0])
    order = [x["image_id"] for batch in batches(20) for x in batch]
    assert order.index(last) == max(order.index(2), order.index(5))  # whatever workers did ahead


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_without_a_limit_the_first_unreadable_image_is_the_end(workers, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG")
    records = [{"file_name": str(path), "width": 4, "height": 4}]
    mapper = DetectionMapper(True, augmentations=[], image_format="RGB")
    settings = {"mapper": mapper, "total_batch_size": 1, "num_workers": workers, "seed": 0}
    with pytest.raises(ImageError, match=f"cannot read image {path}"):
        next(iter(build_train_loader(records, **settings)))
    with pytest.raises(DataError, match=f"skipped 10 images at .*cannot read image {path}"):
        next(iter(build_train_loader(records, **settings, max_unreadable=1)))

    Image.new("RGB", (5, 4)).save(path)  # another size than annotated is no broken image
    with pytest.raises(DataError, match=f"{path}.*5, 4.*4, 4"):
        next(iter(build_train_loader(records, **settings, max_unreadable=1)))


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
