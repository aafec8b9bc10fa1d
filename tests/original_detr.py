"""The original DETR, written plainly on torch, as the oracle of the baseline and its conversion."""

import math

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import resnet50
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.ops.misc import FrozenBatchNorm2d

from conftest import randomize, randomize_statistics

DIM, HEADS, HIDDEN, QUERIES, CLASSES = 64, 8, 48, 12, 5
SETTINGS = dict(dim_feedforward=HIDDEN, dropout=0.0, batch_first=True)


class PlainDETR(nn.Module):
    """DETR of two layers each, under its original names, out of torch's and torchvision's parts."""

    def __init__(self):
        super().__init__()
        body = IntermediateLayerGetter(resnet50(norm_layer=FrozenBatchNorm2d), {"layer4": "0"})
        self.backbone = nn.Sequential(nn.ModuleDict({"body": body}))
        self.input_proj = nn.Conv2d(2048, DIM, 1)
        encoder = [nn.TransformerEncoderLayer(DIM, HEADS, **SETTINGS) for _ in range(2)]
        decoder = [nn.TransformerDecoderLayer(DIM, HEADS, **SETTINGS) for _ in range(2)]
        self.transformer = nn.ModuleDict(
            {
                "encoder": nn.ModuleDict({"layers": nn.ModuleList(encoder)}),
                "decoder": nn.ModuleDict(
                    {"layers": nn.ModuleList(decoder), "norm": nn.LayerNorm(DIM)}
                ),
            }
        )
        self.query_embed = nn.Embedding(QUERIES, DIM)
        self.class_embed = nn.Linear(DIM, CLASSES + 1)  # the last is "no object"
        layers = [nn.Linear(DIM, DIM), nn.Linear(DIM, DIM), nn.Linear(DIM, 4)]
        self.bbox_embed = nn.ModuleDict({"layers": nn.ModuleList(layers)})

    def forward(self, images, padding):
        x = self.input_proj(self.backbone[0]["body"](images)["0"])
        padding = F.interpolate(padding[:, None].float(), size=x.shape[-2:])[:, 0].bool()
        x, position = x.flatten(2).transpose(1, 2), position_encoding(padding)
        padding = padding.flatten(1)
        for layer in self.transformer["encoder"]["layers"]:
            x = encode(layer, x, position, padding)
        query_position = self.query_embed.weight.expand(len(x), -1, -1)
        y, outputs = torch.zeros_like(query_position), []
        for layer in self.transformer["decoder"]["layers"]:
            y = decode(layer, y, query_position, x, position, padding)
            outputs.append(self.transformer["decoder"]["norm"](y))
        y = torch.stack(outputs)
        first, second, last = self.bbox_embed["layers"]
        return self.class_embed(y), last(second(first(y).relu()).relu()).sigmoid()


def position_encoding(padding):
    """DETR's normalised sine encoding of a mask, (B, S, C)."""
    half = DIM // 2
    frequency = 10000 ** (2 * (torch.arange(half) // 2) / half)
    encoding = []
    for axis in (1, 2):
        index = (~padding).cumsum(axis).float()
        fraction = index / (index.amax(axis, keepdim=True) + 1e-6)
        angle = fraction[..., None] * 2 * math.pi / frequency
        parts = [angle[..., 0::2].sin(), angle[..., 1::2].cos()]
        encoding.append(torch.stack(parts, dim=-1).flatten(-2))
    return torch.cat(encoding, dim=-1).flatten(1, 2)


def encode(layer, x, position, padding):
    located = x + position
    x = layer.norm1(x + layer.self_attn(located, located, x, key_padding_mask=padding)[0])
    return layer.norm2(x + layer.linear2(layer.linear1(x).relu()))


def decode(layer, y, query_position, x, position, padding):
    located = y + query_position
    y = layer.norm1(y + layer.self_attn(located, located, y)[0])
    attended, _ = layer.multihead_attn(
        y + query_position, x + position, x, key_padding_mask=padding
    )
    y = layer.norm2(y + attended)
    return layer.norm3(y + layer.linear2(layer.linear1(y).relu()))


def make_original():
    original = PlainDETR()
    randomize(original.transformer, std=0.15)
    randomize(original.bbox_embed, std=0.15)
    return randomize_statistics(original)
