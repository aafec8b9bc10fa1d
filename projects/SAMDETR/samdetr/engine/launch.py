"""Several processes: started here by Detectron2's `launch`, or already by torchrun or SLURM."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from detectron2.engine import create_ddp_model, launch
from detectron2.utils import comm
from torch import nn

from ..stopping import passed_on
from .config import ConfigError

TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
SLURM = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "MASTER_ADDR", "MASTER_PORT")


class Place(NamedTuple):
    """Where a process stands among all and among those of its machine."""

    rank: int
    world_size: int
    local_rank: int
    local_size: int


def place_in(environment: Mapping[str, str]) -> Place | None:
    """Where torchrun or SLURM put this process; None if it was started by hand.

    Args:
        environment: torchrun's variables, or SLURM's with MASTER_ADDR and MASTER_PORT, which name
            the first machine and a free port of it.

    Raises:
        ConfigError: if the ranks of a machine do not follow each other, as Detectron2 needs.
    """
    if all(name in environment for name in TORCHRUN):
        place = Place(*(int(environment[name]) for name in TORCHRUN))
    elif all(name in environment for name in SLURM) and int(environment["SLURM_NTASKS"]) > 1:
        rank, world_size, local_rank = (int(environment[name]) for name in SLURM[:3])
        machines = int(environment.get("SLURM_NNODES", 1))
        place = Place(rank, world_size, local_rank, world_size // machines)
    else:
        return None
    if place.world_size % place.local_size or place.rank % place.local_size != place.local_rank:
        raise ConfigError(
            f"{place}: every machine must run as many processes, and their ranks must follow "
            "each other (srun --distribution=block)"
        )
    return place


def number_of_processes(args: argparse.Namespace) -> int:
    """How many processes a command line, or what has started this process, makes of a run."""
    place = place_in(os.environ)
    return place.world_size if place else max(args.num_gpus, 1) * args.num_machines


def start(function: Callable[[argparse.Namespace], Any], args: argparse.Namespace) -> None:
    """Call `function(args)` in every process of the run.

    Args:
        function: importable by name, as spawned processes need.
        args: of Detectron2's argument parser. `num_gpus` counts processes per machine, on a
            machine without GPUs too; 0 and 1 stay in this process.

    Raises:
        ConfigError: if the machine has fewer GPUs than asked for, or if torchrun and `num_gpus`
            would both start processes.
    """
    place = place_in(os.environ)
    many = args.num_gpus > 1 or args.num_machines > 1
    if many and all(name in os.environ for name in TORCHRUN):
        raise ConfigError("torchrun has started the processes: leave out --num-gpus")
    if many or place is None:
        _check_launch(args)
        with passed_on() if args.num_gpus > 1 else nullcontext():
            launch(
                function,
                max(args.num_gpus, 1),
                args.num_machines,
                args.machine_rank,
                args.dist_url,
                (args,),
            )
    else:
        _join(place)
        function(args)


def _check_launch(args: argparse.Namespace) -> None:
    if torch.cuda.is_available() and args.num_gpus > torch.cuda.device_count():
        raise ConfigError(
            f"--num-gpus {args.num_gpus}, but this machine has {torch.cuda.device_count()}"
        )
    if args.num_machines > 1 and args.dist_url == "auto":
        raise ConfigError("--num-machines needs --dist-url tcp://HOST:PORT of the first machine")


def _join(place: Place) -> None:
    if torch.cuda.is_available():
        torch.cuda.set_device(place.local_rank)
    dist.init_process_group(
        "nccl" if torch.cuda.is_available() else "gloo",
        init_method="env://",
        rank=place.rank,
        world_size=place.world_size,
    )
    comm.create_local_process_group(place.local_size)
    comm.synchronize()


def share_cores() -> None:
    """Give each of several processes on this machine its part of the cores.

    Every process would otherwise start a thread per core, and on a CPU they stand in each other's
    way. torchrun does the same by setting OMP_NUM_THREADS.
    """
    if comm.get_local_size() > 1 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // comm.get_local_size()))


def wrap(model: nn.Module, **options: Any) -> nn.Module:
    """Detectron2's `create_ddp_model`, for models on a CPU too.

    Args:
        model: on its device.
        options: for `create_ddp_model`.

    Returns:
        The model itself in a single process.

    Raises:
        ConfigError: if the model is on a CPU and the processes talk by NCCL.
    """
    if comm.get_world_size() == 1:
        return model
    on_gpu = next(model.parameters()).is_cuda
    if not on_gpu and dist.get_backend() == "nccl":
        raise ConfigError("train.device=cpu in several processes needs CUDA_VISIBLE_DEVICES=''")
    # Detectron2 always passes the GPU's number, which DDP refuses for a model on a CPU.
    device_ids = [comm.get_local_rank()] if on_gpu else None
    return create_ddp_model(model, device_ids=device_ids, **options)
