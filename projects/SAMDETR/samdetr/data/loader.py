"""Batches for training, whose order and augmentation are a function of seed and position alone.

Detectron2's loader shards and groups the images in each process and draws augmentations from
generators that workers carry on, so that what comes next depends on what came before, on the number
of workers and on that of processes. Here all follow one endless order: an image is known by its
position in it, batches are formed by the main process, and the augmentation of an image is seeded
by its position.
"""

from __future__ import annotations

import itertools
import logging
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from detectron2.data import DatasetFromList
from detectron2.data.build import trivial_batch_collator
from detectron2.data.samplers import TrainingSampler
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset, Sampler

from ..randomness import seeded
from .datasets import DataError, Record
from .reading import ImageError

Place = tuple[int, int]
"""Position of an image in the endless order, and its index in the data set."""

ATTEMPTS = 10  # images tried in one place


class Sample(NamedTuple):
    """What has a place in a batch."""

    mapped: Any
    unreadable: dict[int, str]  # images that could not be read in its place, by index: why


class PlacedDataset(Dataset[Sample]):
    """The mapped images of a data set by their place.

    Args:
        records: images in Detectron2's format.
        mapper: of a record; None leaves it out, and another has its place.
        seed: of everything the mapper draws from the global generators.
        replace: whether another image has the place of one that cannot be read.
    """

    def __init__(
        self, records: list[Record], mapper: Callable[[Record], Any], seed: int, replace: bool
    ):
        self.records = DatasetFromList(records, copy=False)
        self.mapper = mapper
        self.seed = seed
        self.replace = replace

    def __getitem__(self, place: Place) -> Sample:
        """The image of a place, or another that place and seed alone choose.

        Raises:
            ImageError: if the image cannot be read and none is to replace it.
            DataError: if the mapper leaves out one image after the other.
        """
        position, index = place
        unreadable: dict[int, str] = {}
        with seeded(self.seed, position):
            for _ in range(ATTEMPTS):
                mapped = self._mapped(index, unreadable)
                if mapped is not None:
                    return Sample(mapped, unreadable)
                index = random.randrange(len(self.records))
        last = f", the last: {[*unreadable.values()][-1]}" if unreadable else ""
        raise DataError(f"the mapper left out {ATTEMPTS} images at position {position}{last}")

    def _mapped(self, index: int, unreadable: dict[int, str]) -> Any:
        try:
            return self.mapper(self.records[index])
        except ImageError as error:
            if not self.replace:
                raise
            unreadable[index] = str(error)
            return None


class PlacedBatches(Sampler[list[Place]]):
    """The batches of this process, cut out of the order of all.

    Groups of as many images as a process takes are formed over all processes, each of similar
    aspect ratio as in Detectron2; an iteration takes the next groups, one for each process.

    Args:
        sampler: one of Detectron2's for training.
        upright: whether an image is taller than wide, by its index: images are only grouped with
            their like. None groups all with all.
        batch_size: images of a group.

    Attributes:
        start: iteration that the first batch is of.

    Raises:
        DataError: if `sampler` has no order over all processes.
    """

    def __init__(self, sampler: Sampler[int], upright: list[bool] | None, batch_size: int):
        check_sampler(sampler)
        self.sampler: Any = sampler
        self.upright = upright
        self.batch_size = batch_size
        self.start = 0

    def __iter__(self) -> Iterator[list[Place]]:
        processes = comm.get_world_size()
        first = self.start * processes + comm.get_rank()
        # Groups before the first are formed again, from indices alone: a second for 12 epochs of
        # COCO.
        return itertools.islice(self._groups(), first, None, processes)

    def _groups(self) -> Iterator[list[Place]]:
        groups: tuple[list[Place], list[Place]] = ([], [])
        for place in enumerate(self.sampler._infinite_indices()):
            group = groups[self.upright is not None and self.upright[place[1]]]
            group.append(place)
            if len(group) == self.batch_size:
                yield group.copy()
                group.clear()


class TrainLoader(DataLoader[Sample]):
    """Endless batches, from any iteration on.

    Args:
        max_unreadable: images of the data set that may be left out because they cannot be read.
        settings: those of torch's loader.

    Attributes:
        unreadable: the images left out so far by this process, by index: why. They are counted
            in the order of the batches: when there are too many does not depend on workers.
    """

    batch_sampler: PlacedBatches

    def __init__(self, *, max_unreadable: int, **settings: Any):
        super().__init__(**settings, collate_fn=trivial_batch_collator)
        self.max_unreadable = max_unreadable
        self.unreadable: dict[int, str] = {}

    def seek(self, iteration: int) -> None:
        """Let the first batch be that of an iteration; the number of processes may be another."""
        self.batch_sampler.start = iteration

    def __iter__(self) -> Iterator[list[Any]]:  # type: ignore[override]
        """Raises DataError once more images than may be are left out."""
        for samples in super().__iter__():
            for sample in samples:
                self._leave_out(sample.unreadable)
            yield [sample.mapped for sample in samples]

    def _leave_out(self, unreadable: dict[int, str]) -> None:
        for index, reason in unreadable.items():
            if index in self.unreadable:
                continue
            self.unreadable[index] = reason
            count = len(self.unreadable)
            if count > self.max_unreadable:
                raise DataError(
                    f"{reason}. {count} images cannot be read, and "
                    f"dataloader.train.max_unreadable is {self.max_unreadable}"
                )
            logging.getLogger(__name__).warning(
                "%s. Another image has its place (%d of at most %d)",
                reason,
                count,
                self.max_unreadable,
            )


def build_train_loader(
    dataset: list[Record],
    *,
    mapper: Callable[[Record], Any],
    total_batch_size: int,
    sampler: Sampler[int] | None = None,
    aspect_ratio_grouping: bool = True,
    num_workers: int = 0,
    seed: int = -1,
    max_unreadable: int = 0,
) -> TrainLoader:
    """Make a loader in place of Detectron2's `build_detection_train_loader`.

    Args:
        dataset: images in Detectron2's format.
        mapper: of an image to what the model gets; its random numbers come from the global
            generators of Python, NumPy and torch, as those of Detectron2's augmentations do.
        total_batch_size: of all processes together.
        sampler: one of Detectron2's for training; by default every image once an epoch, shuffled.
        aspect_ratio_grouping: whether a process gets either upright or lying images in a batch;
            then images have `width` and `height`.
        num_workers: processes that read images for this one.
        seed: of order and augmentation, the same in all processes; -1 draws one.
        max_unreadable: images of the data set that each process may leave out because they cannot
            be read. Another image, which is a function of seed and position, has the place of one.

    Raises:
        DataError: if the batch cannot be shared among the processes, `max_unreadable` is negative,
            `sampler` is for another number of images or has no order over all processes, or images
            are grouped and one has no size.
    """
    processes = comm.get_world_size()
    if total_batch_size < 1 or total_batch_size % processes:
        raise DataError(
            f"dataloader.train.total_batch_size is {total_batch_size}, must be a positive "
            f"multiple of {processes}, the number of processes"
        )
    if max_unreadable < 0:
        raise DataError(f"dataloader.train.max_unreadable is {max_unreadable}, must be 0 or more")
    if seed < 0:
        seed = comm.shared_random_seed()
    if sampler is None:
        sampler = TrainingSampler(len(dataset), seed=seed)
    _check_size(sampler, len(dataset))
    upright = None
    if aspect_ratio_grouping:
        upright = [_is_upright(record) for record in dataset]
    return TrainLoader(
        max_unreadable=max_unreadable,
        dataset=PlacedDataset(dataset, mapper, seed, replace=max_unreadable > 0),
        batch_sampler=PlacedBatches(
            sampler,
            upright,
            total_batch_size // processes,
        ),
        num_workers=num_workers,
        worker_init_fn=outlive_signals,
        # Without its own, a loader draws from the generator that the model draws from.
        generator=torch.Generator().manual_seed(seed),
    )


def check_sampler(sampler: Any) -> None:
    """Check that a sampler, or a class of them, has an order over all processes.

    Raises:
        DataError: if it has none.
    """
    if not hasattr(sampler, "_infinite_indices"):
        name = (sampler if isinstance(sampler, type) else type(sampler)).__name__
        raise DataError(
            f"dataloader.train.sampler is a {name}, must be one of Detectron2's training samplers, "
            "which know the order over all processes"
        )


def _check_size(sampler: Sampler[int], size: int) -> None:
    """Check that one of Detectron2's samplers is for as many images: less would be left out."""
    factors = getattr(sampler, "_int_part", None)  # by the image
    given = getattr(sampler, "_size", None if factors is None else len(factors))
    if given not in (None, size):
        raise DataError(
            f"dataloader.train.sampler is for {given} images, but dataloader.train.dataset has "
            f"{size}"
        )


def _is_upright(record: Record) -> bool:
    try:
        return bool(record["width"] <= record["height"])
    except KeyError as error:
        raise DataError(
            f"image {record['file_name']} has no {error}, by which images are grouped: give every "
            "entry of the data set width and height, or set "
            "dataloader.train.aspect_ratio_grouping=False"
        ) from error


def outlive_signals(worker: int) -> None:
    """Keep a worker alive through signals to all processes of a run, until its parent ends it.

    Args:
        worker: number of the worker, from the DataLoader.
    """
    if hasattr(signal, "SIGUSR1"):
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS and Windows
        # Block SIGTERM so that `sigwaitinfo` can tell us the sender's PID.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_obey_parent, daemon=True).start()


def _obey_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
