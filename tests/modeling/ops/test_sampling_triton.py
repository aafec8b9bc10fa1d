"""Triton kernels of deformable sampling, in Triton's interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from samdetr.modeling.ops.deformable import sample_by_bags, sample_by_grid

pytestmark = pytest.mark.slow

CASES = {
    "odd": ([(5, 7), (3, 4)], torch.float32),
    "double": ([(1, 1), (3, 1)], torch.float64),
    "bfloat16": ([(3, 4)], torch.bfloat16),
}


def make_case(sizes, dtype):
    """Inputs of five channels; locations in and around the maps, one of them very far away."""
    exact = torch.promote_types(dtype, torch.float32)
    tokens = sum(height * width for height, width in sizes)
    locations = torch.rand(2, 3, 3, len(sizes), 2, 2, dtype=exact) * 1.8 - 0.4
    locations[0, 0, 0, 0, 0] = torch.tensor([-1e9, 1e30])
    value = torch.randn(2, tokens, 3, 5).to(dtype)
    weights = torch.rand(locations.shape[:-1], dtype=exact)
    return [sizes, value, locations, weights, torch.randn(2, 3, 15).to(dtype)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Inputs and results of each case, from a process with TRITON_INTERPRET=1."""
    pytest.importorskip("triton", reason="Triton comes with torch for CUDA, on Linux")
    torch.manual_seed(0)
    cases = [make_case(*case) for case in CASES.values()]
    inputs, outputs = (tmp_path_factory.mktemp("triton") / x for x in ("in.pt", "out.pt"))
    torch.save(cases, inputs)
    subprocess.run(
        [sys.executable, Path(__file__).parents[2].joinpath("triton_samples.py"), inputs, outputs],
        check=True,
        env={**os.environ, "TRITON_INTERPRET": "1"},
    )
    return dict(zip(CASES, zip(cases, torch.load(outputs), strict=True), strict=True))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("sample", [sample_by_bags, sample_by_grid])
def test_triton_equals_the_other_backends(runs, case, sample):
    (sizes, *tensors, upstream), results = runs[case]
    tensors = [x.clone().requires_grad_() for x in tensors]
    out = sample(tensors[0], sizes, *tensors[1:])
    gradients = torch.autograd.grad(out, tensors, upstream)
    for ours, theirs in zip(results, (out.detach(), *gradients), strict=True):
        low = ours.dtype in (torch.bfloat16, torch.float16)
        error = 2e-2 if low else 1e-5  # the last digit of bfloat16, as sums differ in their order
        assert ours.dtype == theirs.dtype
        assert_close(ours, theirs, atol=error, rtol=error)


def test_nan_locations_give_nan_and_leave_other_samples_alone():
    sizes, value, locations, weights, _ = make_case(*CASES["odd"])
    locations[1, 2, 1, 1, 0] = torch.tensor([float("nan"), float("inf")])
    out = sample_by_bags(value, sizes, locations, weights).unflatten(-1, (3, 5))
    assert out[1, 2, 1].isnan().all()
    assert out.isfinite().sum() == out.numel() - 5
