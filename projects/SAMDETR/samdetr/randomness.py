"""Random numbers as a function of a seed and a position in the run.

Whatever is drawn for an image or in an iteration does not depend on which process draws it, in
what order, or after which interruption. There is no generator state to save.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def seed_all(seed: int, *place: int) -> None:
    """Seed the global generators of Python, NumPy and torch on all devices.

    Args:
        seed: of the run, 0 or more.
        place: position in the run, such as iteration and process. Positions of different length
            give different numbers.
    """
    _seed(torch.manual_seed, seed, place)


@contextmanager
def seeded(seed: int, *place: int) -> Iterator[None]:
    """Seed the same generators, on the CPU only, inside the context; restore them afterwards."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    _seed(torch.default_generator.manual_seed, seed, place)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def _seed(seed_torch: Callable[[int], Any], seed: int, place: tuple[int, ...]) -> None:
    numbers = np.random.SeedSequence(seed, spawn_key=place).generate_state(4, np.uint64)
    random.seed(int(numbers[0]))
    np.random.seed(numbers[1:3].view(np.uint32))
    seed_torch(int(numbers[3]))


def use_deterministic_algorithms() -> None:
    """Make torch use deterministic algorithms, which may be slower.

    An operator without one warns when it is called.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=True)
