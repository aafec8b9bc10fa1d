"""Config files and overrides: what works is applied, what cannot work is named."""

from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from omegaconf import OmegaConf

from samdetr.engine import BackboneFactor, ConfigError, build_model, build_optimizer, load_config
from toy import ToyModel

TOY = str(Path(__file__).parents[1].joinpath("toy_config.py"))


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("train.max_iter=7", "train.max_iter", 7),
        ("train.max_iter=1e3", "train.max_iter", 1000),
        ("train.clip_grad.max_norm=inf", "train.clip_grad.max_norm", float("inf")),
        ("train.checkpointer.max_to_keep=null", "train.checkpointer.max_to_keep", None),
        ("dataloader.evaluator.aps=[1.0,2.0]", "dataloader.evaluator.aps", [1.0, 2.0]),
        ("dataloader.evaluator.aps.0=3.0", "dataloader.evaluator.aps", [3.0]),
        ("train.amp={enabled: true}", "train.amp", {"enabled": True, "dtype": "bfloat16"}),
        ("model.poison=3", "model.poison", 3),  # an argument of the model, not in the config
        ("+train.extra=1", "train.extra", 1),
    ],
)
def test_an_override_sets_its_key(override, key, value):
    assert OmegaConf.select(load_config(TOY, [override]), key) == value


@pytest.mark.parametrize(
    ("override", "nearest"),
    [
        ("train.max_itr=7", "train.max_iter"),
        ("train.clip_gard.max_norm=1.0", "train.clip_grad.max_norm"),
        ("train.amp={enabld: true}", "train.amp.enabled"),
        ("modle.num_classes=7", "model.num_classes"),
        ("model.posion=7", "model.poison"),
        ("optimizer.params.lr_factor_func.facto=0.5", "optimizer.params.lr_factor_func.factor"),
    ],
)
def test_an_unknown_key_is_an_error_that_names_the_nearest(override, nearest):
    with pytest.raises(ConfigError, match=f"nearest is '{nearest}'"):
        load_config(TOY, [override])


@pytest.mark.parametrize(
    ("override", "wanted"),
    [
        ("train.max_iter=1oo", "an integer"),
        ("train.max_iter=true", "an integer"),
        ("train.amp.enabled=yes", "true or false"),
        ("optimizer.lr=fast", "a number"),
        ("train.amp=true", "a group of keys"),
        ("dataloader.evaluator.aps=3", "a list"),
        ("train.max_iter", "key=value"),
        ("~train.max_iter", "key=value"),
        ("train.max_iter=1,2", "an integer"),
        ("optimizer.lr=a=b", "a number"),
        ("dataloader.evaluator.aps=[1", "a list"),
        ("--resume", "key=value"),
        ("train.output_dir=${train.nowhere}", "train.nowhere"),
    ],
)
def test_a_value_that_does_not_fit_is_an_error_that_says_what_would(override, wanted):
    with pytest.raises(ConfigError, match=wanted):
        load_config(TOY, [override])


def test_an_error_of_a_constructor_names_its_key():
    cfg = load_config(TOY, ["optimizer.lr=-1.0", "model._target_=toy.NoModel"])
    with pytest.raises(ConfigError, match=r"^model cannot be built: .*toy\.NoModel"):
        build_model(cfg)
    with pytest.raises(ConfigError, match="^optimizer cannot be built: Invalid learning rate"):
        build_optimizer(cfg.optimizer, ToyModel())
    assert "model" not in cfg.optimizer.params


def test_a_missing_file_and_a_missing_part_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"'nowhere\.py' is not a file"):
        load_config("nowhere.py")
    config = tmp_path / "config.py"
    config.write_text("train = dict(max_iter=3)\nmodel = dict()\n")
    with pytest.raises(ConfigError, match=r"config\.py lacks dataloader\.train.* lr_multiplier"):
        load_config(str(config))
    config.write_text("train = dict()\nmodel = (\n")
    with pytest.raises(ConfigError, match=r"config\.py cannot be read: .*line 2"):
        load_config(str(config))
    text = tmp_path / "config.txt"
    text.write_text("")
    with pytest.raises(ConfigError, match=r"config\.txt cannot be read: expected keys and values"):
        load_config(str(text))


def test_a_negative_factor_is_refused():
    with pytest.raises(ValueError, match="factor is -1"):
        BackboneFactor(-1)
