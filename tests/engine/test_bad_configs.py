"""Configs that cannot work: each is refused by a `ConfigError`, before any data is read."""

import copy
import math
from contextlib import nullcontext
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from detectron2.config import instantiate
from detectron2.config.lazy import _convert_target_to_string
from hypothesis import assume, given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import nn
from torch.testing import assert_close

from bad_configs import BEFORE_DATA, DN, FITTING, SMCA, VARIANTS, WRONG, optimizer
from command_line import train_net
from samdetr import model_zoo
from samdetr.engine import ConfigError, build_model, build_optimizer
from samdetr.engine.building import check_parts
from samdetr.engine.calls import is_near, is_one_edit
from samdetr.engine.config import check_config, load_config
from samdetr.engine.train import Evaluation, make_output_folder
from samdetr.engine.trying import try_model

TOY = str(Path(__file__).parents[1].joinpath("toy_config.py"))


@cache
def content_of(name):
    cfg = model_zoo.get_config(name, ["train.device=cpu"])
    return strings(OmegaConf.to_container(cfg, resolve=False))


def strings(content):
    """With names in place of what is called, as in YAML."""
    if isinstance(content, dict):
        return {key: strings(value) for key, value in content.items()}
    if isinstance(content, list):
        return [strings(x) for x in content]
    return _convert_target_to_string(content) if callable(content) else content


def prepare(content):
    """All that train_net.py makes of a config before it reads data."""
    cfg = OmegaConf.create(content, flags={"allow_objects": True})
    check_config(cfg)
    check_parts(cfg)
    model = build_model(cfg)
    build_optimizer(cfg.optimizer, model)
    return model


def places(content, place=()):
    """Every key, groups included."""
    items = content.items() if isinstance(content, dict) else enumerate(content)
    for name, value in items:
        yield (*place, name)
        if isinstance(value, dict | list):
            yield from places(value, (*place, name))


def put(content, place, value):
    changed = copy.deepcopy(content)
    part = changed
    for name in place[:-1]:
        part = part.setdefault(name, {}) if isinstance(part, dict) else part[name]
    part[place[-1]] = value
    return changed


def test_what_is_changed_below_works_unchanged():
    for name in VARIANTS:
        assert prepare(content_of(name)).training


@pytest.mark.parametrize(
    ("name", "key", "value", "message"), WRONG, ids=[f"{x[1]}-{x[3][:30]}" for x in WRONG]
)
def test_what_cannot_be_is_refused_by_key_and_value(name, key, value, message):
    place = [int(x) if x.isdecimal() else x for x in key.split(".")]
    with pytest.raises(ConfigError, match=message):
        prepare(put(content_of(name), place, value))


@pytest.mark.parametrize(
    ("key", "value"), FITTING, ids=[f"{i}-{x[0]}" for i, x in enumerate(FITTING)]
)
def test_what_is_unusual_but_works_is_not_refused(key, value):
    place = [int(x) if x.isdecimal() else x for x in key.split(".")]
    assert prepare(put(content_of(SMCA), place, value)).training


ODD = st.one_of(
    st.sampled_from([None, "", "text", True, False, [], {}, [1], ["a"], {"a": 1}, "${nowhere}"]),
    st.integers(-3, 40),
    st.floats(-10, 10) | st.sampled_from([math.nan, math.inf, -math.inf]),
)


@given(st.sampled_from(VARIANTS), st.data())
def test_a_config_with_a_value_changed_is_built_or_refused(name, data):
    content = content_of(name)
    place = data.draw(st.sampled_from(list(places(content))))
    changed = put(content, place, data.draw(ODD))
    try:
        built = prepare(changed)
    except ConfigError as error:
        assert str(error)
    else:
        assert built.training


def misspelt(draw, name):
    """A name that is one edit away."""
    index = draw(st.integers(0, len(name) - 1))
    letter = draw(st.sampled_from("abcdefghijklmnopqrstuvwxyz_0"))
    return draw(
        st.sampled_from(
            [
                name[:index] + name[index + 1 :],
                name[:index] + letter + name[index:],
                name[:index] + letter + name[index + 1 :],
                name[:index] + name[index : index + 2][::-1] + name[index + 2 :],
            ]
        )
    )


@given(st.sampled_from(VARIANTS), st.data())
def test_a_misspelt_key_is_refused_and_named(name, data):
    content = content_of(name)
    place = data.draw(st.sampled_from([x for x in places(content) if isinstance(x[-1], str)]))
    assume("dataset" not in place and place[0] != "mini")  # a helper of the file, not of the run
    wrong = misspelt(data.draw, place[-1])
    parent = content
    for part in place[:-1]:
        parent = parent[part]
    assume(wrong and wrong not in parent)
    renamed = {wrong if key == place[-1] else key: value for key, value in parent.items()}
    changed = put(content, place[:-1], renamed) if place[:-1] else renamed

    with pytest.raises(ConfigError) as error:
        prepare(changed)

    assert wrong in str(error.value) or place[-1] in str(error.value) or "in_channels" in place


@given(st.text("abc", min_size=1, max_size=5), st.data())
def test_one_edit_is_near_and_more_are_not(name, data):
    wrong = misspelt(data.draw, name)
    assume(wrong != name)
    assert is_one_edit(wrong, name) and is_one_edit(name, wrong) and is_near(wrong, name)
    assert not is_one_edit(name, name)
    assert not is_one_edit(name + "xy", name) and not is_one_edit("x" + name + "y", name)


def loaded(**dataset):
    """Takes the place of what loads a data set."""
    raise AssertionError("data is read")


@pytest.mark.parametrize("wrong", [*BEFORE_DATA, ""])
def test_no_data_is_read_before_a_config_is_refused(tmp_path, capsys, wrong):
    dataset = [
        f"dataloader.{part}.dataset._target_=test_bad_configs.loaded" for part in ("train", "test")
    ]
    file = model_zoo.get_config_file(VARIANTS[0])
    arguments = ["--config-file", file, f"train.output_dir={tmp_path}", "train.device=cpu"]
    if not wrong:  # without a mistake it is read: were it not, this would prove nothing
        with pytest.raises(AssertionError, match="data is read"):
            train_net(*arguments, *dataset)
        return
    assert train_net(*arguments, *dataset, wrong) == 2
    output = capsys.readouterr().err.strip()
    assert output.splitlines()[-1].startswith("train_net.py: ")


def test_a_batch_that_processes_cannot_share_is_refused(capsys):
    arguments = ["--num-gpus", "3", "--config-file", model_zoo.get_config_file(VARIANTS[0])]
    arguments += ["train.device=cpu", "dataloader.train.total_batch_size=16"]
    assert train_net(*arguments) == 2
    assert "total_batch_size is 16, which 3 processes cannot share" in capsys.readouterr().err


def test_a_model_is_tried_without_a_trace():
    changed = put(content_of(DN), ["model", "criterion"], {"_target_": "bad_configs.Restless"})
    cfg = OmegaConf.create(changed, flags={"allow_objects": True})
    torch.manual_seed(0)
    untried = instantiate(cfg.model).eval()
    untried.encoder.train()
    state = torch.get_rng_state()
    modes = [x.training for x in untried.modules()]
    values = {name: x.clone() for name, x in untried.state_dict().items()}

    try_model(untried)

    assert torch.equal(torch.get_rng_state(), state)
    assert [x.training for x in untried.modules()] == modes
    assert_close(untried.state_dict(), values, rtol=0, atol=0)
    assert not any(x._forward_hooks or x._forward_pre_hooks for x in untried.modules())
    assert all(x.grad is None for x in untried.parameters())


def test_a_model_is_tried_without_the_other_processes(monkeypatch):
    cfg = model_zoo.get_config(SMCA, ["train.device=cpu"])
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", lambda *_: pytest.fail("NCCL knows no CPU"))
    assert build_model(cfg).training


@pytest.mark.parametrize("name", ["Adagrad", "AdamW", "SGD"])
def test_an_optimiser_is_tried_without_a_trace(name):
    cfg = OmegaConf.create(optimizer(name), flags={"allow_objects": True})
    before = OmegaConf.to_container(cfg)
    model = nn.Linear(2, 3)
    values = {name: x.clone() for name, x in model.state_dict().items()}

    built = build_optimizer(cfg, model)

    assert OmegaConf.to_container(cfg) == before
    assert_close(model.state_dict(), values, rtol=0, atol=0)
    assert model.weight.grad is None
    assert {x for y in built.param_groups for x in y["params"]} == set(model.parameters())
    assert all(state["step"] == 0 for state in built.state.values())


@pytest.mark.parametrize("folder", ["http://x/y", "detectron2://x", "mini://x", "a\0b", "x" * 5000])
def test_a_folder_that_nobody_can_write_into_is_refused(folder):
    with pytest.raises(ConfigError, match="^train.output_dir=.* cannot be written into: .") as e:
        make_output_folder(folder)
    assert len(str(e.value)) < len(folder) + 100  # it is named once


def no_evaluator():
    """A function in place of an evaluator's class."""
    return {}


@pytest.mark.parametrize(
    ("names", "evaluated", "fits"),
    [
        ("mini_val", "mini_val", True),
        (["mini_val"], "mini_val", True),
        (["mini_val", "mini_train"], "union_of_both", True),
        (["mini_val"], "mini_train", False),
        ("mini_val", "mini_train", False),
    ],
)
def test_the_evaluator_is_of_the_set_that_is_evaluated(names, evaluated, fits):
    content = put(content_of(SMCA), ["dataloader", "test", "dataset", "names"], names)
    content = put(content, ["dataloader", "evaluator", "dataset_name"], evaluated)
    with nullcontext() if fits else pytest.raises(ConfigError, match="against other images"):
        assert prepare(content).training


def test_what_a_function_makes_in_place_of_an_evaluator_is_refused():
    cfg = load_config(TOY)
    cfg.dataloader.evaluator = {"_target_": "test_bad_configs.no_evaluator"}
    check_config(cfg)  # what a function makes is not known yet
    with pytest.raises(ConfigError, match="dataloader.evaluator is dict, expected a Dataset"):
        Evaluation(cfg, nn.Identity())


def test_unknown_keys_of_ones_own_are_left_alone():
    cfg = load_config(model_zoo.get_config_file(VARIANTS[0]), ["+train.note=mine", "+own.key=1"])
    assert cfg.train.note == "mine" and cfg.own.key == 1
