"""Gradients in float64 against finite differences, by `torch.autograd.gradcheck`."""

from __future__ import annotations

from torch import Tensor, nn
from torch.autograd import gradcheck
from torch.func import functional_call

from conftest import randomize


def double(x):
    """A tensor, or those of a tuple, in float64 where it is float32."""
    if isinstance(x, tuple):
        return type(x)(*map(double, x)) if hasattr(x, "_fields") else x
    return x.double() if isinstance(x, Tensor) and x.is_floating_point() else x


def variable(x: Tensor) -> Tensor:
    return x.detach().double().requires_grad_()


def assert_right(function, *inputs: Tensor, exhaustive: bool = False) -> None:
    """By random directions, or with every element of the Jacobian."""
    assert gradcheck(function, [variable(x) for x in inputs], fast_mode=not exhaustive)


def assert_module_right(module: nn.Module, function, *inputs: Tensor, only: str = "") -> None:
    """Gradients of inputs, and of all parameters whose names begin as `only` does.

    Args:
        function: from a callable that has the parameters, and the inputs, to tensors.
    """
    module = randomize(module.double())
    parameters = {k: v for k, v in module.named_parameters() if k.startswith(only)}
    assert parameters or not only

    def of_all(*values):
        named = dict(zip(parameters, values))
        return function(lambda *x: functional_call(module, named, x), *values[len(named) :])

    assert_right(of_all, *parameters.values(), *inputs)
