"""What a run needs beside its weights to go on as if it had never been interrupted."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from detectron2.engine import HookBase
from detectron2.utils import comm

from ..randomness import seed_all
from ..tensors import entries
from .states import whole_number


class Seed(HookBase):
    """Seeds every iteration by the run's seed, its number and its process.

    So the seed is all of the random state that a checkpoint needs, and evaluations and loaders
    draw what they like.

    Args:
        seed: of the run, 0 or more; a checkpoint that is loaded has its own.
    """

    def __init__(self, seed: int):
        self.seed = seed

    def before_step(self) -> None:
        """Seed this iteration, in this process."""
        seed_all(self.seed, self.trainer.iter, comm.get_rank())

    def state_dict(self) -> dict[str, int]:
        """The seed, and how many processes there are."""
        return {"seed": self.seed, "processes": comm.get_world_size()}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Take the seed of a run, and say what is different in this one.

        Raises:
            ValueError: if it is no such state.
        """
        logger = logging.getLogger(__name__)
        state = entries(state, "the state of the seed")
        seed, before = whole_number(state, "seed"), whole_number(state, "processes", least=1)
        processes = comm.get_world_size()
        if seed != self.seed:
            logger.info("train.seed=%d, with which the run has begun, goes on", seed)
        if before != processes:
            logger.warning(
                "The run goes on in %d processes instead of %d: images come in the same order, "
                "shared differently, and random numbers of the model are others",
                processes,
                before,
            )
        self.seed = seed


class CatchUp(HookBase):
    """Does what was left of the last iteration when its checkpoint was made.

    A checkpoint is made before the evaluation of its iteration, which may fail, and before its
    metrics are written; a run that goes on from it owes both.

    Args:
        hooks: those after the one that makes checkpoints.
    """

    def __init__(self, hooks: Sequence[HookBase]):
        self.hooks = hooks

    def before_train(self) -> None:
        """Let the hooks end the iteration before the first one; they are ready by now."""
        trainer, start_iter = self.trainer, self.trainer.start_iter
        if start_iter == 0:
            return
        trainer.iter = trainer.storage.iter = start_iter - 1
        for hook in self.hooks:
            hook.after_step()
        trainer.iter = trainer.storage.iter = start_iter
