"""Layers that keep their inputs alone and compute all else again in the backward pass.

This is activation checkpointing (https://arxiv.org/abs/1604.06174): less memory in training, for
about a third more time in the layer. A layer of `model.encoder` or `model.decoder` becomes one by
its class, in a config

    model.encoder.layer._target_ = RecomputedEncoderLayer
    model.decoder.layer._target_ = RecomputedDecoderLayer

or on the command line, by `model.decoder.layer._target_=samdetr.modeling.RecomputedDecoderLayer`.
All its other settings, its parameters and their names stay as they are: checkpoints fit both ways.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .decoder import DecoderLayer
from .detrs.dab_detr import DABDecoderLayer, DABEncoderLayer
from .encoder import EncoderLayer


class Recomputed(nn.Module):
    """What makes a layer of the class behind it in the list of bases a recomputed one."""

    def forward(self, *inputs: Any) -> Tensor:
        """As in the layer; without gradients nothing is different."""
        if not torch.is_grad_enabled():
            return super().forward(*inputs)
        return checkpoint(super().forward, *inputs, use_reentrant=False)


class RecomputedEncoderLayer(Recomputed, EncoderLayer):
    """`EncoderLayer`, recomputed."""


class RecomputedDecoderLayer(Recomputed, DecoderLayer):
    """`DecoderLayer`, recomputed."""


class RecomputedDABEncoderLayer(Recomputed, DABEncoderLayer):
    """`DABEncoderLayer`, recomputed."""


class RecomputedDABDecoderLayer(Recomputed, DABDecoderLayer):
    """`DABDecoderLayer`, recomputed."""
