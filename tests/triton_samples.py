"""Run Triton's kernels in its interpreter, on a CPU; a script of `test_sampling_triton.py`."""

import sys

import torch

from samdetr.modeling.ops.deformable import sample_by_triton


def main(inputs: str, outputs: str) -> None:
    """Save results and gradients for a list of (sizes, value, locations, weights, upstream)."""
    results = []
    for sizes, *tensors, upstream in torch.load(inputs):
        tensors = [x.requires_grad_() for x in tensors]
        out = sample_by_triton(tensors[0], sizes, *tensors[1:])
        results.append([out.detach(), *torch.autograd.grad(out, tensors, upstream)])
    torch.save(results, outputs)


if __name__ == "__main__":
    main(*sys.argv[1:])
