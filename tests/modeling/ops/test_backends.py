"""Explicit choice of kernels."""

import pytest
import torch

from samdetr.modeling import ops
from samdetr.modeling.ops import backends, deformable, roi_align, selected


def test_backends_restores_the_previous_choice_even_after_an_error():
    with backends(attend="plain", deformable="grid"):
        with pytest.raises(RuntimeError), backends(attend="auto", roi_align="operator"):
            assert [selected(name) for name in ops.CHOICES] == ["auto", "operator", "grid"]
            raise RuntimeError
        assert [selected(name) for name in ops.CHOICES] == ["plain", "auto", "grid"]
    assert [selected(name) for name in ops.CHOICES] == ["auto"] * 3


@pytest.mark.parametrize("choice", [{"attend": "strips"}, {"deformable": "operator"}])
def test_unknown_names_are_refused_and_change_nothing(choice):
    with (
        pytest.raises(ValueError, match="must be one of auto, "),
        backends(roi_align="operator", **choice),
    ):
        raise AssertionError("unreachable")
    assert selected("roi_align") == "auto"


def test_the_default_kernel_depends_on_the_device_and_on_determinism(monkeypatch):
    monkeypatch.setattr(deformable, "HAS_TRITON", True)
    cpu, gpu, meta = (torch.device(x) for x in ("cpu", "cuda", "meta"))
    kernels = roi_align.fastest, deformable.fastest
    assert [f(cpu) for f in kernels] == ["embedding_bag"] * 2
    assert [f(gpu) for f in kernels] == ["operator", "triton"]
    assert [f(meta) for f in kernels] == ["operator", "grid"]
    torch.use_deterministic_algorithms(True)
    try:
        assert [f(gpu) for f in kernels] == ["products", "grid"]
    finally:
        torch.use_deterministic_algorithms(False)
