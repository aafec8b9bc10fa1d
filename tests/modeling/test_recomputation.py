"""Layers that are computed again: the same numbers and names, with less kept for backward."""

from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate
from torch.testing import assert_close
from torch.utils._pytree import tree_flatten

from conftest import make_batch, make_config, randomize
from samdetr.engine import load_config
from samdetr.modeling import (
    RecomputedDABDecoderLayer,
    RecomputedDABEncoderLayer,
    RecomputedDecoderLayer,
    RecomputedEncoderLayer,
)

CONFIGS = Path(__file__).parents[2] / "configs"
LAYERS = (RecomputedEncoderLayer, RecomputedDecoderLayer)
DAB_LAYERS = (RecomputedDABEncoderLayer, RecomputedDABDecoderLayer)


def make_configs(name, dropout=0.1):
    """A model as it is, and one whose layers are recomputed."""
    encoder, decoder = DAB_LAYERS if name == "dab_detr" else LAYERS
    configs = []
    for targets in ({}, {"encoder": encoder, "decoder": decoder}):
        if name == "dab_detr":
            config = load_config(str(CONFIGS / "mini" / "dab_detr.py")).model
        else:
            config = make_config(name)
        config.encoder.layer.dropout = dropout
        for part, target in targets.items():
            config[part].layer._target_ = target
        configs.append(config)
    return configs


def make_models(name, dropout=0.1):
    torch.manual_seed(1)
    plain, recomputed = map(instantiate, make_configs(name, dropout))
    randomize(plain, std=0.05)
    recomputed.load_state_dict(plain.state_dict())
    return plain.train(), recomputed.train()


def run(model, batch):
    """Losses and gradients by name, with the same dropout every time."""
    torch.manual_seed(2)
    losses = model(batch)
    torch.stack([*losses.values()]).sum().backward()
    return losses, {name: x.grad for name, x in model.named_parameters()}


@pytest.mark.parametrize(
    ("name", "dropout"), [("sam_detr_smca", 0.0), ("sam_detr_smca", 0.1), ("dab_detr", 0.1)]
)
def test_names_losses_gradients_and_dropout_are_those_of_plain_layers(name, dropout):
    plain, recomputed = make_models(name, dropout)
    batch = make_batch()

    assert [*plain.state_dict()] == [*recomputed.state_dict()]
    for found, expected in zip(run(recomputed, batch), run(plain, batch)):
        assert_close(found, expected, rtol=1e-5, atol=1e-6)


def kept_bytes(layer, inputs):
    """Size of what a layer keeps for its gradients, parameters and inputs left out."""
    kept = {}
    tensors = [x for x in tree_flatten(inputs)[0] if isinstance(x, torch.Tensor)]
    known = {x.untyped_storage().data_ptr() for x in [*layer.parameters(), *tensors]}

    def keep(x):
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        output = layer(*inputs)
    assert output.requires_grad
    return sum(size for pointer, size in kept.items() if pointer not in known)


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_nothing_but_its_inputs_is_kept_of_a_layer(part):
    models, inputs = make_models("sam_detr_smca"), []
    plain, recomputed = (getattr(model, part).layers[0] for model in models)
    plain.register_forward_pre_hook(lambda _, x: inputs.append(x))
    models[0](make_batch())
    assert kept_bytes(plain, inputs[0]) > 0
    assert kept_bytes(recomputed, inputs[0]) == 0
