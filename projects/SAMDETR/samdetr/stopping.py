"""Stopping a training from outside: a signal, a checkpoint, and an exit code of its own.

SLURM sends SIGTERM to all processes of a job that has to go, and SIGUSR1 some time before if it was
asked to (`--signal=USR1@120`).
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from detectron2.utils import comm

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: try again


class Stopped(SystemExit):
    """The end of a training that was told to stop and has saved; exits with `EXIT_CODE`."""

    def __init__(self) -> None:
        super().__init__(EXIT_CODE)


class StopRequest:
    """Notes the signals of this process while it is entered; all processes of a run enter it."""

    def __init__(self) -> None:
        self.received = 0  # number of the last signal
        self._previous: dict[int, Any] = {}
        self._group: Any = None

    def __enter__(self) -> StopRequest:
        # By way of the host: not to wait for a GPU in every iteration.
        self._group = dist.new_group(backend="gloo") if comm.get_world_size() > 1 else None
        if threading.current_thread() is threading.main_thread():  # no other can receive any
            self._previous = {number: signal.signal(number, self._receive) for number in SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = number

    def agreed(self) -> int:
        """Number of the signal that any process has received, the same in all; 0 for none.

        All processes call it at the same time.
        """
        if self._group is None:
            return self.received
        number = torch.tensor(self.received)
        dist.all_reduce(number, dist.ReduceOp.MAX, self._group)
        return int(number)


def outlive_signals(worker: int) -> None:
    """Let a loader's worker go on when all processes are told to stop, until its parent ends it."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    # Blocked, a signal waits for someone who asks for it, and only so says who has sent it.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_obey_parent, daemon=True).start()


def _obey_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


@contextmanager
def passed_on() -> Iterator[None]:
    """Pass signals to stop on to the processes that this one has started, and outlive them."""

    def pass_on(number: int, frame: FrameType | None) -> None:
        for child in multiprocessing.active_children():
            os.kill(child.pid, number)  # type: ignore[arg-type]

    previous = {number: signal.signal(number, pass_on) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
