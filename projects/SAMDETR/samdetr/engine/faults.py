"""What can end a run whose input is right, each told in a sentence: what happened, what is left."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.multiprocessing import ProcessExitedException

from ..checkpoint import Checkpointer
from ..errors import TrainingError

DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}
WORKER = re.compile(r"DataLoader worker.* (is killed by|exited unexpectedly)")
CONNECTION = re.compile("gloo|NCCL|[Cc]onnection (closed|reset)")


@contextmanager
def explained(checkpointer: Checkpointer, resumable: bool = True) -> Iterator[None]:
    """Turn the faults that are known into a `TrainingError`; others pass.

    Args:
        checkpointer: of the run.
        resumable: whether the run can be resumed, as a training can.
    """
    try:
        yield
    except (RuntimeError, ArithmeticError, MemoryError, OSError, EOFError) as error:
        reason = reason_of(error, checkpointer.save_dir)
        if not reason:
            raise
        left = f"; {what_is_left(checkpointer)}" if resumable else ""
        raise TrainingError(reason + left) from error


def reason_of(error: Exception, folder: str) -> str:
    """What has happened, in one line; "" for what is not known here.

    Args:
        error: raised in training or evaluation.
        folder: that a file is in whose name the error does not tell.
    """
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.errno in DISK:
        return f"{error.filename or folder} cannot be written: {error.strerror}"
    if isinstance(error, FloatingPointError | MemoryError):
        return text or "out of memory"
    if is_out_of_memory(error):
        return f"out of memory: {text}"
    if WORKER.search(text) or is_lost_batch(error):
        return (
            f"a worker that reads images has died: {text.rstrip('. ') or 'no batch'}. If nobody "
            "has killed it, memory was short (`dmesg` tells): set dataloader.train.num_workers and "
            "dataloader.test.num_workers lower"
        )
    if isinstance(error, dist.DistError) or (dist.is_initialized() and CONNECTION.search(text)):
        return (
            "another process of this run has ended or cannot be reached: what it says, if it does, "
            f"is the cause ({text})"
        )
    return ""


def what_is_left(checkpointer: Checkpointer) -> str:
    """Which checkpoint `--resume` goes on from."""
    try:
        newest = checkpointer.newest()
    except OSError as error:
        return str(error)
    if not newest:
        return "there is no checkpoint yet"
    return f"the last good checkpoint is {newest}, from which --resume goes on"


def is_lost_batch(error: Exception) -> bool:
    """Whether a worker has died after it gave notice of a batch, and before that was fetched."""
    # By a socket of the worker's, which is closed or gone; that of a file would have its name.
    gone = isinstance(error, FileNotFoundError) and error.filename is None
    return gone or isinstance(error, ConnectionError | EOFError)


def killed_process(error: ProcessExitedException, folder: str) -> str:
    """What to say of a process that could not say it itself.

    Args:
        error: of the process that has started it.
        folder: of the run's checkpoints.
    """
    left = what_is_left(Checkpointer(nn.Module(), folder))
    return (
        f"process {error.error_index} of this run (pid {error.error_pid}) was killed by "
        f"{error.signal_name}. If that was nobody, memory was short (`dmesg` tells); {left}"
    )


def is_out_of_memory(error: Exception) -> bool:
    """Whether the device or the machine had no memory left for a tensor."""
    # On a CPU, torch has no class for it.
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


@contextmanager
def naming_batch(batch: Sequence[dict[str, Any]], iteration: int) -> Iterator[None]:
    """Raise a MemoryError that describes the batch if there is no memory for it.

    Args:
        batch: of Detectron2's dicts.
        iteration: that it is of.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        text = re.sub(r"^\[enforce fail[^]]*\] .*?(?=DefaultCPUAllocator)", "", str(error))
        raise MemoryError(
            f"out of memory at iteration={iteration} with {description(batch)} "
            f"({' '.join(text.split())[:200]}). Less is needed by a smaller "
            "dataloader.train.total_batch_size, by smaller images, by train.amp.enabled=true, and "
            "by model.decoder.layer._target_=samdetr.modeling.RecomputedDecoderLayer"
        ) from error


def description(batch: Sequence[dict[str, Any]]) -> str:
    """Sizes of the images of a batch, and how many objects they have."""
    sizes = [tuple(record["image"].shape[-2:]) for record in batch]
    padded = [max(lengths) for lengths in zip(*sizes)]
    objects = [len(record["instances"]) for record in batch if "instances" in record]
    return (
        f"{len(batch)} images of {', '.join(f'{h}x{w}' for h, w in sizes)} (height x width), "
        f"padded to {'x'.join(map(str, padded))}, which have {'+'.join(map(str, objects)) or 'no'} "
        "objects"
    )
