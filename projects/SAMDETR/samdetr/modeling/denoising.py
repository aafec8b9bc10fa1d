"""Denoising queries: noisy copies of the ground truth that learn to find back to it.

Paper: section 4.5.2, the "w/ DN" variants. DN-DETR: https://arxiv.org/abs/2203.01305.

Shapes: B images, N matching queries, G groups, T boxes of the fullest image, D = G * T denoising
        queries, C channels, K classes.
Units:  boxes are (cx, cy, w, h), fractions of the unpadded image.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor, nn

from ..structures import Queries, Targets
from .arguments import at_least
from .layers import numbers

logger = logging.getLogger(__name__)


class NoDenoising(nn.Module):
    """Matching queries alone."""

    def forward(self, queries: Queries, targets: Targets | None) -> Queries:
        """Returns: the queries."""
        return queries


class Denoising(nn.Module):
    """Adds groups of noisy ground truth behind the matching queries in training.

    A denoising query has a box with noise as its reference and the embedding of a label with noise
    as its content. Which box it has to find is known, so it needs no matching. Matching queries see
    none of them, and groups do not see each other: at inference they are just left out.

    Args:
        num_classes: K.
        dim: C.
        num_groups: G, how often each box is copied.
        label_noise: probability that a label is drawn anew from all classes.
        box_noise: a centre moves by up to this times half the size, a size changes by up to this
            times itself; below 1, so that a centre stays in its box.
        max_queries: D is never larger; where the fullest image has too many boxes for it, there
            are fewer groups, and in the end some boxes, drawn by chance, have no query.
    """

    def __init__(
        self,
        num_classes: int,
        dim: int,
        num_groups: int = 5,
        label_noise: float = 0.2,
        box_noise: float = 0.4,
        max_queries: int = 500,
    ):
        super().__init__()
        at_least(1, num_classes=num_classes, dim=dim)
        if not (0 <= label_noise <= 1 and 0 <= box_noise < 1):
            raise ValueError(
                f"label_noise must be in [0, 1] and box_noise in [0, 1), got {label_noise} and "
                f"{box_noise}"
            )
        if num_groups < 1 or max_queries < num_groups:
            raise ValueError(
                f"num_groups must be at least 1 and at most max_queries, got {num_groups} and "
                f"{max_queries}"
            )
        self.num_classes = num_classes
        self.num_groups = num_groups
        self.label_noise = label_noise
        self.box_noise = box_noise
        self.max_queries = max_queries
        self.labels = nn.Embedding(num_classes, dim)

    def forward(self, queries: Queries, targets: Targets | None) -> Queries:
        """Add denoising queries if there are targets.

        Args:
            queries: N matching queries per image.
            targets: in training.

        Returns:
            N + D queries, the denoising ones behind, with `known` and `mask`.
        """
        if targets is None:
            return queries
        known, num_groups = self.choose(targets)
        index = known.clamp(min=0)
        labels = self.noisy_labels(targets.labels.gather(1, index))
        boxes = self.noisy_boxes(targets.boxes.gather(1, index[..., None].expand(-1, -1, 4)))
        content = torch.cat([queries.content, self.labels(labels).to(queries.content)], dim=1)
        reference = torch.cat([queries.reference, boxes.logit(eps=1e-5)], dim=1)
        mask = self.mask(known, num_groups, queries.content.shape[1])
        return Queries(content, reference, mask, known)

    def choose(self, targets: Targets) -> tuple[Tensor, int]:
        """The box that each query starts from, (B, D) int64 with -1 for none, and the groups."""
        batch, count = targets.labels.shape
        num_groups = max(1, min(self.num_groups, self.max_queries // count))
        counts = numbers(targets.counts, targets.labels)[:, None]
        chosen = torch.arange(count, device=counts.device).expand(batch, -1)
        chosen = chosen.masked_fill(chosen >= counts, -1)
        if count > self.max_queries:
            logger.warning(
                "an image has %d boxes: %d of them, drawn by chance, get a denoising query",
                count,
                self.max_queries,
            )
            order = torch.rand(batch, count, device=counts.device).masked_fill(chosen < 0, 2.0)
            chosen = chosen.gather(1, order.argsort(dim=1)[:, : self.max_queries])
        return chosen.repeat(1, num_groups), num_groups

    def noisy_labels(self, labels: Tensor) -> Tensor:
        """Labels of any shape, some of them drawn anew."""
        drawn = torch.randint_like(labels, self.num_classes)
        noisy = torch.rand(labels.shape, device=labels.device) < self.label_noise
        return torch.where(noisy, drawn, labels)

    def noisy_boxes(self, boxes: Tensor) -> Tensor:
        """(..., 4) boxes, shifted and scaled, with all of (cx, cy, w, h) within [0, 1]."""
        size = boxes[..., 2:]
        noise = (2 * torch.rand_like(boxes) - 1) * self.box_noise
        return (boxes + noise * torch.cat([size / 2, size], dim=-1)).clamp(0, 1)

    def mask(self, known: Tensor, num_groups: int, num_queries: int) -> Tensor:
        """(B, 1, N + D, N + D) bias of self-attention: -inf where a query must not look.

        Every query sees the matching ones; a denoising query also sees those of its own group that
        have a box, so that an image is not trained otherwise for being beside a fuller one.
        """
        batch, count = known.shape
        group = torch.arange(num_groups, device=known.device)
        group = group.repeat_interleave(count // num_groups)
        total = num_queries + count
        hidden = torch.zeros(batch, 1, total, total, dtype=torch.bool, device=known.device)
        hidden[..., :num_queries, num_queries:] = True
        hidden[..., num_queries:, num_queries:] = group[:, None] != group
        hidden[..., num_queries:] |= (known < 0)[:, None, None]
        return torch.zeros_like(hidden, dtype=torch.float32).masked_fill(hidden, float("-inf"))
