"""Distributed runs, started by Detectron2's `launch`, by torchrun or by SLURM."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from types import FrameType
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from detectron2.engine import create_ddp_model, launch
from detectron2.utils import comm
from torch import nn

from ..errors import ConfigError

TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
# SLURM sends SIGTERM to all processes of a job that has to end, and SIGUSR1 some time before if it
# was asked to (`--signal=USR1@120`). Windows has no SIGUSR1.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))
EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: try again
SLURM = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "MASTER_ADDR", "MASTER_PORT")


class Place(NamedTuple):
    """Rank of a process in the run and on its machine."""

    rank: int
    world_size: int
    local_rank: int
    local_size: int


def place_in(environment: Mapping[str, str]) -> Place | None:
    """Return the rank given by torchrun or SLURM; None if neither started this process.

    SLURM needs MASTER_ADDR and MASTER_PORT too, the first machine and a free port of it. Ranks on a
    machine have to be consecutive, as they are by default (`--distribution=block`).
    """
    if all(name in environment for name in TORCHRUN):
        return Place(*(int(environment[name]) for name in TORCHRUN))
    if all(name in environment for name in SLURM) and int(environment["SLURM_NTASKS"]) > 1:
        rank, world_size, local_rank = (int(environment[name]) for name in SLURM[:3])
        machines = int(environment.get("SLURM_NNODES", 1))
        return Place(rank, world_size, local_rank, world_size // machines)
    return None


def start(function: Callable[[argparse.Namespace], Any], args: argparse.Namespace) -> None:
    """Call `function(args)` in every process of the run.

    Args:
        function: importable by name, since processes are spawned.
        args: of Detectron2's argument parser. `num_gpus` is the number of processes per machine,
            without GPUs too; 0 and 1 run in this process.

    Raises:
        ConfigError: if the machine has fewer GPUs, or if torchrun has already started processes.
    """
    place = place_in(os.environ)
    many = args.num_gpus > 1 or args.num_machines > 1
    if many and all(name in os.environ for name in TORCHRUN):
        raise ConfigError("torchrun has started the processes already: leave out --num-gpus")
    if many or place is None:
        if torch.cuda.is_available() and args.num_gpus > torch.cuda.device_count():
            raise ConfigError(
                f"--num-gpus {args.num_gpus}, but this machine has {torch.cuda.device_count()}"
            )
        machines = args.num_machines, args.machine_rank, args.dist_url
        with handled_by(pass_on) if args.num_gpus > 1 else nullcontext():
            launch(function, max(args.num_gpus, 1), *machines, (args,))
    else:
        _join(place)
        function(args)


def _join(place: Place) -> None:
    if torch.cuda.is_available():
        torch.cuda.set_device(place.local_rank)
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, rank=place.rank, world_size=place.world_size)
    comm.create_local_process_group(place.local_size)
    comm.synchronize()


def share_cores() -> None:
    """Divide torch's threads, by default one per core, among the processes of this machine."""
    if comm.get_local_size() > 1 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // comm.get_local_size()))


def wrap(model: nn.Module, **options: Any) -> nn.Module:
    """Return the model in DistributedDataParallel, on a CPU too, or as it is in a single process.

    For a CPU, set CUDA_VISIBLE_DEVICES='' where there are GPUs.
    """
    if comm.get_world_size() == 1:
        return model
    # Detectron2 passes the local rank by default, which DDP refuses for a model on a CPU.
    device_ids = [comm.get_local_rank()] if next(model.parameters()).is_cuda else None
    return create_ddp_model(model, device_ids=device_ids, **options)


class StopRequest(ExitStack):
    """Context that records a signal to stop; every process of a run enters it."""

    def __init__(self) -> None:
        super().__init__()
        self.received = 0  # number of the last signal
        self._group: Any = None

    def __enter__(self) -> StopRequest:
        # gloo communicates on the host: no iteration has to wait for the GPU.
        self._group = dist.new_group(backend="gloo") if comm.get_world_size() > 1 else None
        if threading.current_thread() is threading.main_thread():  # others receive no signals
            self.enter_context(handled_by(self._receive))
        return self

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = number

    def agreed(self) -> int:
        """Return the signal that any process has received, the same in all of them; 0 for none.

        All processes have to call it together.
        """
        if self._group is None:
            return self.received
        number = torch.tensor(self.received)
        dist.all_reduce(number, dist.ReduceOp.MAX, self._group)
        return int(number)


class Stopped(SystemExit):
    """Raised when a training was told to stop and has saved; exits with `EXIT_CODE`."""

    def __init__(self) -> None:
        super().__init__(EXIT_CODE)


def pass_on(number: int, frame: FrameType | None) -> None:
    """Signal handler that passes a signal on to the spawned processes and outlives them."""
    for child in multiprocessing.active_children():
        os.kill(child.pid, number)  # type: ignore[arg-type]


@contextmanager
def handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Context in which a function handles the signals to stop."""
    previous = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)
