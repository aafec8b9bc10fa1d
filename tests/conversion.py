"""Makers for the tests of conversion."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from baselines.official import official
from conftest import make_model, randomize


def small_official(variant: str = "sam_detr_smca") -> tuple[dict[str, Tensor], nn.Module]:
    """Weights of a small official model, and our model for them."""
    sizes = dict(decoder__layer__aligner__resampler__hidden_dims=[32, 32, 32])
    if "_pp" in variant:
        sizes.update(encoder__layer__attention__num_levels=1)
    model = randomize(make_model(variant, **sizes))
    return official(model).state_dict(), model


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """Assert equal names, types and numbers."""
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name
