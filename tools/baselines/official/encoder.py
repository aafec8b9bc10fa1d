"""The encoders: dense attention on one scale, deformable attention on several.

Shapes: B images, S cells of all levels together, C channels, M heads, L levels, P points of a head
        on a level, D = C / M.
Units:  points are (x, y) fractions of a padded feature map.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FeedForward(nn.Module):
    """The second half of every post-norm layer of the encoders; made to be inherited."""

    linear1: nn.Linear
    linear2: nn.Linear

    def feed_forward(self, x: Tensor, norm: nn.Module) -> Tensor:
        """x with the network's output added, normalised."""
        return norm(x + self.linear2(self.linear1(x).relu()))


class DenseLayer(FeedForward):
    """torch's attention over one level, with the weights that nobody reads.

    Args:
        dim: C.
        heads: M.
        hidden: channels of the feed-forward network.
    """

    def __init__(self, dim: int, heads: int, hidden: int):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(dim, heads)
        self.norm1 = nn.LayerNorm(dim)
        self.linear1 = nn.Linear(dim, hidden)
        self.linear2 = nn.Linear(hidden, dim)
        self.norm2 = nn.LayerNorm(dim)

    def forward(self, x: Tensor, position: Tensor, mask: Tensor) -> Tensor:
        """x and position are (S, B, C), and so is the result; mask is (B, S), True on padding."""
        query = key = x + position
        attended, _ = self.self_attn(query, key, value=x, key_padding_mask=mask)
        return self.feed_forward(self.norm1(x + attended), self.norm2)


class DenseEncoder(nn.Module):
    """Layers over the only level.

    Args:
        layers: `DenseLayer`s.
    """

    def __init__(self, layers: list[DenseLayer]):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(
        self, maps: list[Tensor], masks: list[Tensor], positions: list[Tensor]
    ) -> list[Tensor]:
        """Encode one level.

        Args:
            maps, positions: one of (B, C, H, W).
            masks: one of (B, H, W), True on padding.

        Returns:
            One of (S, B, C).
        """
        x = maps[0].flatten(2).permute(2, 0, 1)
        position = positions[0].flatten(2).permute(2, 0, 1)
        mask = masks[0].flatten(1)
        for layer in self.layers:
            x = layer(x, position, mask)
        return [x]


class DeformableAttention(nn.Module):
    """Deformable attention in plain PyTorch.

    Args:
        dim: C.
        levels, heads, points: L, M and P.
    """

    def __init__(self, dim: int, levels: int, heads: int, points: int):
        super().__init__()
        self.shape = (heads, levels, points)
        self.sampling_offsets = nn.Linear(dim, heads * levels * points * 2)
        self.attention_weights = nn.Linear(dim, heads * levels * points)
        self.value_proj = nn.Linear(dim, dim)
        self.output_proj = nn.Linear(dim, dim)

    def forward(
        self,
        query: Tensor,
        reference: Tensor,
        x: Tensor,
        sizes: list[tuple[int, int]],
        mask: Tensor,
    ) -> Tensor:
        """Attend from every token to all levels.

        Args:
            query: (B, S, C) tokens with position.
            reference: (B, S, L, 2) places of the tokens on every level.
            x: (B, S, C) tokens.
            sizes: (height, width) of every level.
            mask: (B, S) bool, True on padding.

        Returns:
            (B, S, C).
        """
        heads, levels, points = self.shape
        batch, length, dim = x.shape
        value = self.value_proj(x).masked_fill(mask[..., None], 0.0)
        value = value.view(batch, length, heads, dim // heads)
        offsets = self.sampling_offsets(query).view(batch, length, heads, levels, points, 2)
        weights = self.attention_weights(query).view(batch, length, heads, levels * points)
        weights = weights.softmax(-1).view(batch, length, heads, levels, points)
        extent = torch.tensor([(w, h) for h, w in sizes], device=x.device, dtype=x.dtype)
        locations = reference[:, :, None, :, None] + offsets / extent[:, None]
        return self.output_proj(sample(value, sizes, locations, weights))


def sample(
    value: Tensor, sizes: list[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """One grid_sample per level; all samples are stacked, weighted and summed.

    Args:
        value: (B, S, M, D).
        sizes: (height, width) of every level.
        locations: (B, S, M, L, P, 2).
        weights: (B, S, M, L, P).

    Returns:
        (B, S, C).
    """
    batch, length, heads, levels, points, _ = locations.shape
    grids = 2 * locations - 1
    samples = []
    for level, part in enumerate(value.split([h * w for h, w in sizes], dim=1)):
        features = part.flatten(2).transpose(1, 2).reshape(batch * heads, -1, *sizes[level])
        grid = grids[:, :, :, level].transpose(1, 2).flatten(0, 1)  # (B * M, S, P, 2)
        samples.append(
            F.grid_sample(
                features, grid, mode="bilinear", padding_mode="zeros", align_corners=False
            )
        )  # (B * M, D, S, P)
    shares = weights.transpose(1, 2).reshape(batch * heads, 1, length, levels * points)
    summed = (torch.stack(samples, dim=-2).flatten(-2) * shares).sum(-1)  # (B * M, D, S)
    return summed.view(batch, -1, length).transpose(1, 2).contiguous()


class DeformableLayer(FeedForward):
    """Deformable attention over all levels.

    Args:
        dim: C.
        levels, heads, points: L, M and P.
        hidden: channels of the feed-forward network.
    """

    def __init__(self, dim: int, levels: int, heads: int, points: int, hidden: int):
        super().__init__()
        self.self_attn = DeformableAttention(dim, levels, heads, points)
        self.norm1 = nn.LayerNorm(dim)
        self.linear1 = nn.Linear(dim, hidden)
        self.linear2 = nn.Linear(hidden, dim)
        self.norm2 = nn.LayerNorm(dim)

    def forward(
        self,
        x: Tensor,
        position: Tensor,
        reference: Tensor,
        sizes: list[tuple[int, int]],
        mask: Tensor,
    ) -> Tensor:
        """x and position are (B, S, C), and so is the result; the rest as in the attention."""
        attended = self.self_attn(x + position, reference, x, sizes, mask)
        return self.feed_forward(self.norm1(x + attended), self.norm2)


class DeformableEncoder(nn.Module):
    """Layers over all levels.

    Args:
        layers: `DeformableLayer`s.
    """

    def __init__(self, layers: list[DeformableLayer]):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(
        self, maps: list[Tensor], masks: list[Tensor], positions: list[Tensor]
    ) -> list[Tensor]:
        """As in `DenseEncoder`, for L levels."""
        sizes = [(x.shape[2], x.shape[3]) for x in maps]
        x = torch.cat([x.flatten(2).transpose(1, 2) for x in maps], dim=1)
        position = torch.cat([x.flatten(2).transpose(1, 2) for x in positions], dim=1)
        mask = torch.cat([x.flatten(1) for x in masks], dim=1)
        reference = cell_centres(masks)
        for layer in self.layers:
            x = layer(x, position, reference, sizes, mask)
        return [y.permute(1, 0, 2) for y in x.split([h * w for h, w in sizes], dim=1)]


def valid_ratio(mask: Tensor) -> Tensor:
    """Parts of the width and the height of a (B, H, W) mask that are not padding, (B, 2)."""
    _, height, width = mask.shape
    rows, columns = (~mask[:, :, 0]).sum(1).float(), (~mask[:, 0, :]).sum(1).float()
    return torch.stack([columns / width, rows / height], dim=-1)


def cell_centres(masks: list[Tensor]) -> Tensor:
    """Where the centres of all cells lie on every level, (B, S, L, 2), by the levels' masks."""
    ratios = torch.stack([valid_ratio(x) for x in masks], dim=1)  # (B, L, 2)
    centres = []
    for level, mask in enumerate(masks):
        _, height, width = mask.shape
        y, x = torch.meshgrid(
            torch.linspace(0.5, height - 0.5, height, device=mask.device),
            torch.linspace(0.5, width - 0.5, width, device=mask.device),
            indexing="ij",
        )
        y = y.reshape(-1)[None] / (ratios[:, None, level, 1] * height)
        x = x.reshape(-1)[None] / (ratios[:, None, level, 0] * width)
        centres.append(torch.stack([x, y], dim=-1))
    return torch.cat(centres, dim=1)[:, :, None] * ratios[:, None]
