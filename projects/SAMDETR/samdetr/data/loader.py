"""Training batches whose order and augmentation depend on seed and position alone.

Detectron2's loader shards and groups images in each process and draws augmentations from generators
that workers carry along, so that the next batch depends on the history and on the number of workers
and processes. Here all processes share one endless order: an image is identified by its position in
it, the main process forms the batches, and the position seeds the augmentation. Exact resume relies
on this.
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

from ..errors import DataError, ImageError
from ..randomness import seeded
from .annotations import Record
from .images import warn_of_dark_images

Place = tuple[int, int]
"""Position of an image in the endless order, and its index in the data set."""

ATTEMPTS = 10  # images tried for one position


class Sample(NamedTuple):
    """The content of one place in a batch."""

    mapped: Any
    unreadable: list[str]  # one reason for each image that it replaces


class PlacedDataset(Dataset[Sample]):
    """The mapped images of a data set, indexed by their place.

    Args:
        records: images in Detectron2's format.
        mapper: from a record to the model's input; None skips the record for another one. A mapper
            with `mixing`, which combines images, is also given a function that draws a record.
        seed: of everything that the mapper draws from the global generators.
        replace: whether another image replaces one that cannot be read.
    """

    def __init__(
        self, records: list[Record], mapper: Callable[[Record], Any], seed: int, replace: bool
    ):
        self.records = DatasetFromList(records, copy=False)
        self.mapper = mapper
        self.seed = seed
        self.replace = replace
        self.draw = [self._draw] if getattr(mapper, "mixing", ()) else []

    def _draw(self) -> Record:
        return self.records[random.randrange(len(self.records))]

    def __getitem__(self, place: Place) -> Sample:
        """Return the image of a place, or a substitute that position and seed determine.

        Raises:
            ImageError: if the image cannot be read and must not be replaced.
            DataError: if the mapper skips `ATTEMPTS` images in a row.
        """
        position, index = place
        unreadable: list[str] = []
        with seeded(self.seed, position):
            for _ in range(ATTEMPTS):
                try:
                    if (mapped := self.mapper(self.records[index], *self.draw)) is not None:
                        return Sample(mapped, unreadable)
                except ImageError as error:
                    if not self.replace:
                        raise
                    unreadable.append(str(error))
                index = random.randrange(len(self.records))
        last = f", the last: {unreadable[-1]}" if unreadable else ""
        raise DataError(f"the mapper skipped {ATTEMPTS} images at position {position}{last}")


class PlacedBatches(Sampler[list[Place]]):
    """Batches of this process, taken from the order that all processes share.

    Groups of one process's batch size are formed over the whole order, each of similar aspect ratio
    as in Detectron2. An iteration takes the next groups, one per process.

    Args:
        sampler: one of Detectron2's training samplers.
        portrait: whether an image is taller than wide, by index; only images of one kind are
            grouped.
        batch_size: images per group.

    Raises:
        DataError: if `sampler` has no global order.
    """

    def __init__(self, sampler: Sampler[int], portrait: list[bool], batch_size: int):
        # Private: a sampler's public iterator yields the share of one process only.
        if not hasattr(sampler, "_infinite_indices"):
            raise DataError(
                f"dataloader.train.sampler is a {type(sampler).__name__}, must be one of "
                "Detectron2's training samplers, which define one order over all processes"
            )
        self.sampler: Any = sampler
        self.portrait = portrait
        self.batch_size = batch_size
        self.start = 0  # iteration of the first batch

    def __iter__(self) -> Iterator[list[Place]]:
        processes = comm.get_world_size()
        first = self.start * processes + comm.get_rank()
        # Earlier groups are formed again, from indices alone: one second for 12 epochs of COCO.
        return itertools.islice(self._groups(), first, None, processes)

    def _groups(self) -> Iterator[list[Place]]:
        groups: tuple[list[Place], list[Place]] = ([], [])
        for place in enumerate(self.sampler._infinite_indices()):
            group = groups[self.portrait[place[1]]]
            group.append(place)
            if len(group) == self.batch_size:
                yield group.copy()
                group.clear()


class TrainLoader(DataLoader[Sample]):
    """Endless batches, starting at any iteration.

    Args:
        max_unreadable: images that may be replaced because they cannot be read.
        settings: those of torch's loader.

    Attributes:
        unreadable: reasons, which name the files, why this process has replaced images so far. They
            are counted in the order of the batches, so the limit does not depend on workers.
    """

    batch_sampler: PlacedBatches

    def __init__(self, *, max_unreadable: int, **settings: Any):
        super().__init__(**settings, collate_fn=trivial_batch_collator)
        self.max_unreadable = max_unreadable
        self.unreadable: set[str] = set()

    def seek(self, iteration: int) -> None:
        """Start at the batch of an iteration; the number of processes may have changed."""
        self.batch_sampler.start = iteration

    def __iter__(self) -> Iterator[list[Any]]:  # type: ignore[override]
        """Iterate; raise DataError once more than `max_unreadable` images are unreadable."""
        for samples in super().__iter__():
            for sample in samples:
                self._count(sample.unreadable)
            yield [sample.mapped for sample in samples]

    def _count(self, unreadable: list[str]) -> None:
        for reason in filter(lambda x: x not in self.unreadable, unreadable):
            self.unreadable.add(reason)
            count = len(self.unreadable)
            if count > self.max_unreadable:
                raise DataError(
                    f"{reason}. {count} images cannot be read, and "
                    f"dataloader.train.max_unreadable is {self.max_unreadable}"
                )
            logging.getLogger(__name__).warning(
                f"{reason}. It is replaced by another image ({count} of at most "
                f"{self.max_unreadable})"
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
    """Build a training loader, in place of Detectron2's `build_detection_train_loader`.

    Args:
        dataset: images in Detectron2's format.
        mapper: from an image to the model's input; draws its random numbers from the global
            generators of Python, NumPy and torch, as Detectron2's augmentations do.
        total_batch_size: images per iteration over all processes.
        sampler: one of Detectron2's for training; by default shuffles every epoch.
        aspect_ratio_grouping: whether a process gets either portrait or landscape images in a
            batch.
        num_workers: worker processes that read images for this one.
        seed: of order and augmentation, the same in all processes; -1 draws one.
        max_unreadable: unreadable images that each process may replace by other images, which seed
            and position determine.

    Raises:
        DataError: if the batch cannot be divided among the processes or `sampler` has no global
            order.
    """
    processes = comm.get_world_size()
    if total_batch_size < 1 or total_batch_size % processes:
        raise DataError(
            f"dataloader.train.total_batch_size is {total_batch_size}, must be a positive "
            f"multiple of {processes}, the number of processes"
        )
    if seed < 0:
        seed = comm.shared_random_seed()
    if sampler is None:
        sampler = TrainingSampler(len(dataset), seed=seed)
    if comm.is_main_process() and getattr(mapper, "white", mapper) is None:
        warn_of_dark_images([record["file_name"] for record in dataset])
    # Images without a size are grouped together.
    portrait = [aspect_ratio_grouping and x.get("width", 0) <= x.get("height", 0) for x in dataset]
    return TrainLoader(
        max_unreadable=max_unreadable,
        dataset=PlacedDataset(dataset, mapper, seed, replace=max_unreadable > 0),
        batch_sampler=PlacedBatches(sampler, portrait, total_batch_size // processes),
        num_workers=num_workers,
        worker_init_fn=outlive_signals,
        # By default a loader draws from the global generator, which the model uses too.
        generator=torch.Generator().manual_seed(seed),
    )


def outlive_signals(worker: int) -> None:
    """Keep a worker alive through signals to all processes of a run, until its parent ends it."""
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
