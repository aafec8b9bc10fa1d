"""Reports on failed runs: the cause in one line, and the checkpoint that is left."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import nn
from torch.multiprocessing import ProcessExitedException

from .checkpoint import Checkpointer
from .errors import TrainingError

DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}
CONNECTION = re.compile("gloo|NCCL|[Cc]onnection (closed|reset)")


@contextmanager
def explained(checkpointer: Checkpointer, resumable: bool = True) -> Iterator[None]:
    """Raise a known failure as a `TrainingError` that names the checkpoint to resume from.

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
        left = f"; {what_is_left(checkpointer.save_dir)}" if resumable else ""
        raise TrainingError(reason + left) from error


def reason_of(error: Exception, folder: str) -> str:
    """Return the cause of a failure in one line; "" if it is not a known one."""
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.errno in DISK:
        return f"{error.filename or folder} cannot be written: {error.strerror}"
    if isinstance(error, FloatingPointError | MemoryError):
        return text or "out of memory"
    if isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in text:
        return f"out of memory: {text}"
    # A worker that dies while its batch is fetched closes the socket that the batch comes by.
    lost = isinstance(error, FileNotFoundError) and error.filename is None
    if "DataLoader worker" in text or lost or isinstance(error, ConnectionError | EOFError):
        return (
            f"a DataLoader worker died ({text.rstrip('. ') or 'no batch'}). If nobody killed it, "
            "the machine ran out of memory (see `dmesg`): set dataloader.train.num_workers and "
            "dataloader.test.num_workers lower"
        )
    if isinstance(error, dist.DistError) or (dist.is_initialized() and CONNECTION.search(text)):
        return f"another process of this run has ended, with the cause in its own output ({text})"
    return ""


def what_is_left(folder: str) -> str:
    """Return which checkpoint `--resume` continues from."""
    try:
        newest = Checkpointer(nn.Module(), folder).newest()
    except OSError as error:
        return str(error)
    if not newest:
        return "there is no checkpoint yet"
    return f"the last good checkpoint is {newest}, from which --resume continues"


def killed_process(error: ProcessExitedException, folder: str) -> str:
    """Return the report on a spawned process that was killed.

    Args:
        error: from the process that spawned it.
        folder: of the run's checkpoints.
    """
    return (
        f"process {error.error_index} of this run (pid {error.error_pid}) was killed by "
        f"{error.signal_name}. If nobody did that, the machine ran out of memory (see `dmesg`); "
        f"{what_is_left(folder)}"
    )
