"""SAM-DETR and SAM-DETR++ computed step by step as the authors' code does.

It shares no computation with `samdetr` and gives the same numbers, so it says both how fast and how
right that is. Where the authors' code is slow, so is this: tokens come before the batch, RoIAlign
runs twice per layer, keys are copied for every head, SMCA's Gaussian is built for every cell, head
and axis, attention returns its weights, batch norms are not folded, layers are matched one by one.
It is not made slower either. Its weights have the names of the published checkpoints.
"""

from .model import OfficialSAMDETR, Sizes
from .weights import official

__all__ = ["OfficialSAMDETR", "Sizes", "official"]
