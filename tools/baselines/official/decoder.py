"""The decoder: self-attention, semantics aligner, cross-attention and box refinement.

Paper: section 4.

Shapes: B images, N queries, C channels, M heads and keypoints, S = H * W cells of a level,
        D channels of a head's query and key, E of its value.
Units:  boxes are (cx, cy, w, h) and points (x, y), fractions of the unpadded image.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import box_convert, roi_align

from .backbone import encode_points
from .encoder import valid_ratio

REGION = 7  # bins of a region along each axis


class Level(NamedTuple):
    """One scale of the image features."""

    memory: Tensor  # (S, B, C) output of the encoder
    position: Tensor  # (S, B, C)
    mask: Tensor  # (B, H, W) bool, True on padding


class MLP(nn.Module):
    """Linear layers with a ReLU between them.

    Args:
        sizes: channels of the input and of every layer.
    """

    def __init__(self, *sizes: int):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(a, b) for a, b in zip(sizes, sizes[1:])])

    def forward(self, x: Tensor) -> Tensor:
        """(..., first size) to (..., last size)."""
        for layer in self.layers[:-1]:
            x = layer(x).relu()
        return self.layers[-1](x)


class Attention(nn.Module):
    """Multi-head attention whose projections, except that of the output, are the caller's.

    Args:
        dim: C.
        heads: M.
    """

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.out_proj = nn.Linear(dim, dim)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Attend.

        Args:
            query: (N, B, M * D).
            key: (S, B, M * D).
            value: (S, B, M * E).
            mask: (B, S) bool, True on keys to leave out.
            bias: (B * M, N, S), added to the scores.

        Returns:
            (N, B, C), and the (B, N, S) weights averaged over the heads.
        """
        length, batch, dim = query.shape
        query = query * (dim // self.heads) ** -0.5
        query, key, value = (
            x.contiguous().view(len(x), batch * self.heads, -1).transpose(0, 1)
            for x in (query, key, value)
        )
        scores = torch.bmm(query, key.transpose(1, 2))  # (B * M, N, S)
        if bias is not None:
            scores = scores + bias
        if mask is not None:
            expanded = mask[:, None, None].expand(-1, self.heads, length, -1)
            scores = scores.view(batch, self.heads, length, -1).masked_fill(expanded, -torch.inf)
            scores = scores.flatten(0, 1)
        weights = scores.softmax(-1)
        x = torch.bmm(weights, value).transpose(0, 1).contiguous().view(length, batch, -1)
        averaged = weights.view(batch, self.heads, length, -1).sum(1) / self.heads
        return self.out_proj(x), averaged


class Gaussian(nn.Module):
    """SMCA's prior for every query, cell, head and axis.

    Args:
        bandwidth: divides the squared distance (cells ** 2).
    """

    numbers = 4  # that the keypoint head gives per head: a keypoint and two scales

    def __init__(self, bandwidth: float = 8.0):
        super().__init__()
        self.bandwidth = bandwidth

    def forward(self, points: Tensor, scales: Tensor, level: Level) -> Tensor:
        """(B, N, M, 2) keypoints and their scales to the (B * M, N, S) bias."""
        _, height, width = level.mask.shape
        y, x = torch.meshgrid(
            torch.arange(height, device=points.device) + 0.5,
            torch.arange(width, device=points.device) + 0.5,
            indexing="ij",
        )
        grid = torch.stack([x, y], dim=-1).view(1, 1, -1, 1, 2)
        extent = valid_ratio(level.mask) * points.new_tensor([width, height])  # (B, 2) cells
        centres = points * extent[:, None, None]
        distance = (centres[:, :, None] - grid).pow(2)  # (B, N, S, M, 2)
        decay = (distance * scales[:, :, None].pow(2)).sum(-1) / self.bandwidth
        return -decay.permute(0, 3, 1, 2).flatten(0, 1)


class NoGaussian(nn.Module):
    """No prior."""

    numbers = 2

    def forward(self, points: Tensor, scales: Tensor, level: Level) -> None:
        """Nothing to add."""
        return None


class DecoderLayer(nn.Module):
    """A post-norm layer on one level.

    Args:
        dim: C.
        heads: M.
        hidden: channels of the feed-forward network.
        reduced: channels of a region in the keypoint head.
        point_hidden: channels of its three hidden layers.
        prior: `Gaussian` or `NoGaussian`.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        hidden: int,
        reduced: int,
        point_hidden: tuple[int, int, int],
        prior: Gaussian | NoGaussian,
    ):
        super().__init__()
        self.heads = heads
        self.sa_qcontent_proj = nn.Linear(dim, dim)
        self.sa_qpos_proj = nn.Linear(dim, dim)
        self.sa_kcontent_proj = nn.Linear(dim, dim)
        self.sa_kpos_proj = nn.Linear(dim, dim)
        self.sa_v_proj = nn.Linear(dim, dim)
        self.self_attn = Attention(dim, heads)
        self.norm1 = nn.LayerNorm(dim)
        self.ca_qcontent_proj = nn.Linear(dim, dim)
        self.ca_kcontent_proj = nn.Linear(dim, dim)
        self.ca_v_proj = nn.Linear(dim, dim)
        self.ca_qpos_sine_proj = MLP(dim, dim, dim)
        self.ca_kpos_sine_proj = MLP(dim, dim, dim)
        self.cross_attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.point1 = nn.Sequential(nn.Conv2d(dim, reduced, 1), nn.ReLU())
        sizes = (reduced * REGION**2, *point_hidden)
        linears = [x for a, b in zip(sizes, sizes[1:]) for x in (nn.Linear(a, b), nn.ReLU())]
        self.point2 = nn.Sequential(*linears, nn.Linear(sizes[-1], prior.numbers * heads))
        self.prior = prior
        self.attn1 = nn.Linear(dim, heads * dim)
        self.attn2 = nn.Linear(dim, heads * dim)
        self.linear1 = nn.Linear(dim, hidden)
        self.linear2 = nn.Linear(hidden, dim)
        self.norm3 = nn.LayerNorm(dim)

    def forward(self, x: Tensor, boxes: Tensor, level: Level) -> Tensor:
        """(N, B, C) content of the queries with (B, N, 4) reference boxes, to (N, B, C)."""
        position = encode_points(boxes[..., :2], x.shape[-1]).permute(1, 0, 2)  # (N, B, C)
        query = self.sa_qcontent_proj(x) + self.sa_qpos_proj(position)
        key = self.sa_kcontent_proj(x) + self.sa_kpos_proj(position)
        attended, _ = self.self_attn(query, key, self.sa_v_proj(x))
        x = self.norm1(x + attended)
        x = self.norm2(x + self.cross(x, boxes, level))
        return self.norm3(x + self.linear2(self.linear1(x).relu()))

    def cross(self, x: Tensor, boxes: Tensor, level: Level) -> Tensor:
        """Cross-attention from aligned queries; arguments and result as in `forward`."""
        length, batch, dim = x.shape
        content, points, scales = self.keypoints(boxes, level)
        embedding = encode_points(points, dim).permute(1, 0, 2, 3).flatten(2)  # (N, B, M * C)
        content = content * self.attn1(x).sigmoid()
        embedding = embedding * self.attn2(x).sigmoid()
        query = self.ca_qcontent_proj(content.view(length, batch, self.heads, dim))
        query = query + self.ca_qpos_sine_proj(embedding.view(length, batch, self.heads, dim))
        key = self.ca_kcontent_proj(level.memory) + self.ca_kpos_sine_proj(level.position)
        key = key[:, :, None].repeat(1, 1, self.heads, 1)  # a copy for every head
        attended, _ = self.cross_attn(
            query.flatten(2),
            key.flatten(2),
            self.ca_v_proj(level.memory),
            level.mask.flatten(1),
            self.prior(points, scales, level),
        )
        return attended

    def keypoints(self, boxes: Tensor, level: Level) -> tuple[Tensor, Tensor, Tensor]:
        """The semantics aligner before its gates.

        Returns:
            (N, B, M * C) features of the keypoints, their (B, N, M, 2) places, and (B, N, M, 2)
            scales, without SMCA of size 0.
        """
        batch, length, _ = boxes.shape
        raw = self.point2(self.point1(regions(boxes, level)).flatten(1))  # (B * N, 2 M or 4 M)
        raw = raw.view(batch, length, -1, self.heads, 2)
        points = raw[:, :, 0].tanh()  # (B, N, M, 2) in the frame of the box, -1 to 1
        features = F.grid_sample(
            regions(boxes, level),
            points.view(batch * length, self.heads, 1, 2),
            mode="bilinear",
            padding_mode="zeros",
            align_corners=False,
        )  # (B * N, C, M, 1)
        features = features.view(batch, length, -1, self.heads).permute(1, 0, 3, 2).flatten(2)
        places = boxes[:, :, None, :2] + 0.5 * boxes[:, :, None, 2:] * points
        return features, places, raw[:, :, 1:].flatten(2, 3)


def regions(boxes: Tensor, level: Level) -> Tensor:
    """RoIAlign of a level in (B, N, 4) boxes, (B * N, C, 7, 7)."""
    _, height, width = level.mask.shape
    extent = valid_ratio(level.mask) * boxes.new_tensor([width, height])
    corners = box_convert(boxes, "cxcywh", "xyxy") * extent.repeat(1, 2)[:, None]  # cells
    features = level.memory.permute(1, 2, 0).unflatten(2, (height, width))
    return roi_align(
        features, list(corners.unbind()), (REGION, REGION), spatial_scale=1.0, aligned=True
    )


class Decoder(nn.Module):
    """Layers, each reading one level and refining the boxes of the one before.

    Args:
        layers: `DecoderLayer`s.
        bbox_embed: box head of every layer.
        levels: index of the level that each layer reads, 0 being the finest.
    """

    def __init__(self, layers: list[DecoderLayer], bbox_embed: nn.ModuleList, levels: list[int]):
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.bbox_embed = bbox_embed
        self.levels = levels

    def forward(self, reference: Tensor, pyramid: list[Level]) -> tuple[Tensor, Tensor]:
        """Run the layers on (N, 4) logits of the first boxes.

        Returns:
            Per layer the (layers, B, N, C) states and the (layers, B, N, 4) boxes it was given.
        """
        batch, dim = pyramid[0].memory.shape[1:]
        reference = reference[None].repeat(batch, 1, 1)
        boxes = reference.sigmoid()
        x = reference.new_zeros(reference.shape[1], batch, dim)
        states, given = [], []
        for layer, level, head in zip(self.layers, self.levels, self.bbox_embed):
            x = layer(x, boxes, pyramid[level])
            states.append(x.transpose(0, 1))
            given.append(boxes)
            reference = (reference + head(x).transpose(0, 1)).detach()
            boxes = reference.sigmoid()
        return torch.stack(states), torch.stack(given)
