"""Files and models for the tests of conversion."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

import torch
from torch import Tensor, nn

from baselines.official import official
from conftest import make_model, randomize

ROOT = Path(__file__).parents[1]


def tool():
    """tools/convert_checkpoint.py as a module."""
    spec = importlib.util.spec_from_file_location("tool", ROOT / "tools" / "convert_checkpoint.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def small_official(variant: str = "sam_detr_smca") -> tuple[dict[str, Tensor], nn.Module]:
    """Weights of a small model of the official code's shape and names, and our model for them."""
    sizes = dict(decoder__layer__aligner__resampler__hidden_dims=[32, 32, 32])
    if "_pp" in variant:
        sizes.update(encoder__layer__attention__num_levels=1)
    model = randomize(make_model(variant, **sizes))
    return official(model).state_dict(), model


def detr_style_file(path: Path, weights: dict[str, Tensor], **arguments) -> Path:
    """A checkpoint as DETR's training writes it, with optimiser, schedule and command line."""
    parameter = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([parameter])
    parameter.grad = torch.ones(2)
    optimizer.step()
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 10)
    content = {
        "model": weights,
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": schedule.state_dict(),
        "epoch": 11,
        "args": argparse.Namespace(lr=1e-4, **arguments),
    }
    torch.save(content, path)
    return path


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """The same names with the same numbers of the same type."""
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name
