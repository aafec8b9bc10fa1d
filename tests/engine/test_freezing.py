"""Frozen parameters and learning rate factors, both by prefixes of names."""

import pytest
import torch
from test_engine_training import config, run, weights
from torch.testing import assert_close

from interruption import finish, members, toy
from samdetr.engine import ConfigError, build_model, build_optimizer, train
from samdetr.engine.config import apply_overrides
from samdetr.randomness import seed_all


def test_frozen_parameters_stay_and_all_others_are_trained(tmp_path):
    freeze = "train.freeze=[backbone,head.bias]"
    seed_all(0)  # as `train` does
    initial = {x: y.clone() for x, y in build_model(config(tmp_path, freeze)).state_dict().items()}
    run(tmp_path, freeze)
    trained = weights(tmp_path / "model_final.pth")
    for name, value in initial.items():
        frozen = name.startswith(("backbone", "head.bias"))
        assert torch.equal(trained[name], value) is frozen


@pytest.mark.slow
def test_frozen_parameters_are_none_that_processes_wait_for(tmp_path):
    cfg = toy(tmp_path, "train.freeze=[backbone]", "train.max_iter=3")
    assert finish(*members(lambda cfg, rank: train(cfg) and None, cfg)) == [0, 0]


@pytest.mark.parametrize("prefixes", ["[bacbone]", "[backbone,neck]"])
def test_a_prefix_of_no_parameter_is_refused(tmp_path, prefixes):
    with pytest.raises(ConfigError, match="backbone, norm, head"):
        build_model(config(tmp_path, f"train.freeze={prefixes}"))


def rates(cfg):
    """Learning rate of each parameter by name."""
    model = build_model(cfg)
    groups = build_optimizer(cfg.optimizer, model).param_groups
    names = {id(x): name for name, x in model.named_parameters()}
    return {names[id(x)]: group["lr"] for group in groups for x in group["params"]}


def test_the_longest_prefix_gives_the_factor(tmp_path):
    factors = "{backbone: 0.5, 'backbone.0.': 0.25, \"head.b\": 2}"
    found = rates(config(tmp_path, f"optimizer.params.factors={factors}", "optimizer.lr=1"))
    expected = {
        "backbone.0.weight": 0.25,
        "backbone.0.bias": 0.25,
        "norm.weight": 1.0,
        "norm.bias": 1.0,
        "head.weight": 1.0,
        "head.bias": 2.0,
    }
    assert found == pytest.approx(expected)


def test_without_factors_the_backbone_has_its_own(tmp_path):
    found = rates(config(tmp_path, "optimizer.params.factors={head: 3.0}", "optimizer.lr=1"))
    assert (found["backbone.0.weight"], found["head.weight"]) == pytest.approx((0.1, 3.0))


def test_a_factor_of_no_parameter_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="factors"):
        rates(config(tmp_path, "optimizer.params.factors={hea.: 3.0}"))


def test_factors_and_frozen_parts_are_kept_by_the_saved_config(tmp_path):
    from detectron2.config import LazyConfig

    from samdetr.engine import load_config

    cfg = config(tmp_path, "optimizer.params.factors={backbone: 0.5}", "train.freeze=[norm]")
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    again = load_config(str(tmp_path / "config.yaml"), trusted=True)
    assert rates(again) == rates(cfg)
    assert_close(list(rates(again).values()), [0.01 * 0.5] * 2 + [0.01] * 2)


def test_factors_of_a_saved_config_are_changed_by_name(tmp_path):
    cfg = config(tmp_path, 'optimizer.params.factors={backbone: 0.5, "head.": 2}')
    apply_overrides(cfg, ['optimizer.params.factors={"head.": 3, "norm.bias": 4}'])
    assert cfg.optimizer.params.factors == {"backbone": 0.5, "head.": 3, "norm.bias": 4}
