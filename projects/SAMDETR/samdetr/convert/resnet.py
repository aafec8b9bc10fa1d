"""Weights of torchvision's ResNets under the names of Detectron2's."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from .rules import RESNET, ConversionError, Rules, StateDict, renamed, rules

# Detectron2 calls the classifier of a ResNet `linear`; a detector has none and leaves it aside.
TORCHVISION: Rules = rules([*RESNET, ("fc", "linear")])
COUNTER = "num_batches_tracked"  # of batch norms that train


def torchvision_to_detectron2(state: Mapping[str, Tensor]) -> StateDict:
    """Weights of a ResNet, ResNeXt or wide ResNet of torchvision.

    The names have no prefix, as those of backbones in Detectron2's model zoo: a checkpointer finds
    them by `matching_heuristics`. The images that such weights expect are RGB, divided by 255, less
    a mean and over a deviation; their strides lie in the 3x3 convolutions (`stride_in_1x1=False`).

    Args:
        state: torchvision's names and tensors.

    Raises:
        ConversionError: if the weights are no such model's.
    """
    for needed in ("conv1.weight", "layer1.0.conv1.weight"):
        if needed not in state:
            raise ConversionError(f"not a ResNet of torchvision: {needed} is missing")
    kept = {name: tensor for name, tensor in state.items() if not name.endswith(COUNTER)}
    return renamed(kept, TORCHVISION, "a ResNet of torchvision")
