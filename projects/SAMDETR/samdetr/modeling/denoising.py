"""Denoising queries: noisy copies of the ground truth that are trained to recover it.

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
from .layers import at_least, between, numbers

logger = logging.getLogger(__name__)


class NoDenoising(nn.Module):
    """No denoising queries."""

    def forward(self, queries: Queries, targets: Targets | None) -> Queries:
        """Return the queries unchanged."""
        return queries


class Denoising(nn.Module):
    """Append groups of noisy ground truth to the matching queries in training.

    A denoising query has a noisy box as its reference and the embedding of a noisy label as its
    content. Its target is known, so it needs no matching. Matching queries do not see denoising
    queries and groups do not see each other, so inference simply leaves them out.

    Args:
        num_classes: K.
        dim: C.
        num_groups: G, copies of each box.
        label_noise: probability that a label is replaced by one drawn from all classes.
        box_noise: a centre moves by up to this times half the size, a size changes by up to this
            times itself; at most 1, so that a centre stays inside its box.
        max_queries: upper bound of D. Where the fullest image has too many boxes, there are fewer
            groups, and with a single group a random subset of the boxes gets a query.
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
        at_least(1, num_classes=num_classes, dim=dim, num_groups=num_groups)
        at_least(num_groups, max_queries=max_queries)
        between(0, 1, label_noise=label_noise, box_noise=box_noise)
        self.num_classes = num_classes
        self.num_groups = num_groups
        self.label_noise = label_noise
        self.box_noise = box_noise
        self.max_queries = max_queries
        self.labels = nn.Embedding(num_classes, dim)

    def forward(self, queries: Queries, targets: Targets | None) -> Queries:
        """Append denoising queries if there are targets.

        Args:
            queries: N matching queries per image.
            targets: ground truth in training, None at inference.

        Returns:
            N + D queries, the denoising ones last, with `known` and `mask`.
        """
        if targets is None:
            return queries
        known, num_groups = self.choose(targets)
        index = known.clamp(min=0)
        labels = self.noisy_labels(targets.labels.gather(1, index))
        boxes = self.noisy_boxes(targets.boxes.gather(1, index[..., None].expand(-1, -1, 4)))
        content = torch.cat([queries.content, self.labels(labels).to(queries.content)], dim=1)
        reference = torch.cat([queries.reference, boxes.logit(eps=1e-5)], dim=1)
        # torch's attention misreads a float32 mask of float64 queries (2.14, on a CPU).
        mask = self.mask(known, num_groups, queries.content.shape[1]).to(content.dtype)
        return Queries(content, reference, mask, known)

    def choose(self, targets: Targets) -> tuple[Tensor, int]:
        """Return the (B, D) int64 target of each query, -1 for none, and the number of groups."""
        batch, count = targets.labels.shape
        num_groups = max(1, min(self.num_groups, self.max_queries // count))
        counts = numbers(targets.counts, targets.labels)[:, None]
        chosen = torch.arange(count, device=counts.device).expand(batch, -1)
        chosen = chosen.masked_fill(chosen >= counts, -1)
        if count > self.max_queries:
            logger.warning(
                "an image has %d boxes: a random %d of them get a denoising query",
                count,
                self.max_queries,
            )
            order = torch.rand(batch, count, device=counts.device).masked_fill(chosen < 0, 2.0)
            chosen = chosen.gather(1, order.argsort(dim=1)[:, : self.max_queries])
        return chosen.repeat(1, num_groups), num_groups

    def noisy_labels(self, labels: Tensor) -> Tensor:
        """Replace some of the labels by random ones."""
        drawn = torch.randint_like(labels, self.num_classes)
        noisy = torch.rand(labels.shape, device=labels.device) < self.label_noise
        return torch.where(noisy, drawn, labels)

    def noisy_boxes(self, boxes: Tensor) -> Tensor:
        """Shift and scale (..., 4) boxes, clamping (cx, cy, w, h) to [0, 1]."""
        size = boxes[..., 2:]
        noise = (2 * torch.rand_like(boxes) - 1) * self.box_noise
        return (boxes + noise * torch.cat([size / 2, size], dim=-1)).clamp(0, 1)

    def mask(self, known: Tensor, num_groups: int, num_queries: int) -> Tensor:
        """Return the (B, 1, N + D, N + D) bias of self-attention, -inf where attention is masked.

        Every query attends to the matching queries, a denoising query also to those of its own
        group that have a target. So the training of an image does not depend on how many boxes the
        other images of the batch have.
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
