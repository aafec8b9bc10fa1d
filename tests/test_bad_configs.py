"""Configs that cannot work: each is refused by a `ConfigError`, before any data is read."""

import copy
import math
from functools import cache

import pytest
from detectron2.config.lazy import _convert_target_to_string
from hypothesis import assume, given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from command_line import train_net
from samdetr import model_zoo
from samdetr.engine import ConfigError, build_model, build_optimizer
from samdetr.engine.building import check_parts
from samdetr.engine.calls import is_near, is_one_edit
from samdetr.engine.config import check_config, load_config

VARIANTS = [
    "mini/sam_detr_smca",
    "mini/sam_detr_pp_smca_dn",
    "mini/deformable_detr",
    "mini/dn_detr",
    "mini/detr_softmax",
    "mini/smca_detr",
]


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


SMCA, DN, DEFORMABLE = VARIANTS[0], VARIANTS[1], VARIANTS[2]
ATTENTION = "model.decoder.layer.cross_attention"
RESIZING = "dataloader.train.mapper.augmentations.0"
RESAMPLER = "model.decoder.layer.aligner.resampler"
WRONG = [
    # Parts that do not fit together.
    (SMCA, f"{ATTENTION}.num_heads", 7, "dim must be a multiple of num_heads, got 96 and 7"),
    (SMCA, f"{ATTENTION}.num_heads", 0, "num_heads is 0, must be 1 or more"),
    (SMCA, f"{ATTENTION}.num_heads", 4, "num_heads is 4, but prior.num_points 8"),
    (SMCA, f"{RESAMPLER}.num_points", 4, "num_points is 8, but the resampler gives 4"),
    (SMCA, f"{RESAMPLER}.region_size", 5, "the pooler gives 7 x 7 bins, but .*region_size=5"),
    (SMCA, f"{RESAMPLER}.hidden_dims", [32, 16], "the parts of the model, in decoder.layers.0"),
    (SMCA, "model.encoder.layer.dim", 32, "the parts of the model, in encoder.layers.0"),
    (SMCA, "model.decoder.levels", [], "levels must name a feature level"),
    (SMCA, "model.decoder.levels", [0, 1], r"decoder.levels is \[0, 1\], but the neck gives 1"),
    (SMCA, "model.decoder.levels", [-1], r"decoder.levels is \[-1\], but the neck gives 1"),
    (SMCA, "model.neck.in_channels", {}, "the number of in_channels is 0"),
    (SMCA, "model.neck.in_channels", {"res3": 95}, "95 channels of 'res3', the backbone gives"),
    (SMCA, "model.backbone.out_features", ["res9"], r"\['res9'\]: expected some of"),
    (DN, "model.denoising.num_classes", 3, "num_classes is 10, denoising has 3"),
    (DN, "model.denoising.num_groups", 0, "num_groups must be at least 1"),
    (DN, "model.denoising.label_noise", 1.5, r"label_noise must be in \[0, 1\]"),
    (DN, "model.denoising.box_noise", math.nan, r"box_noise in \[0, 1\)"),
    (DEFORMABLE, "model.encoder.layer.attention.num_levels", 3, "num_levels=3, but the neck"),
    (DEFORMABLE, "model.encoder.layer.attention.num_points", 0, "num_points is 0"),
    # Numbers that cannot be.
    (SMCA, "model.num_queries", 0, "num_queries is 0, must be 1 or more"),
    (SMCA, "model.num_queries", "many", "num_queries is 'many', expected an integer"),
    (SMCA, "model.num_classes", 0, "num_classes is 0, must be 1 or more"),
    (SMCA, "model.num_classes", -1, "num_classes is -1, must be 1 or more"),
    (SMCA, "model.detections_per_image", 0, "detections_per_image is 0"),
    (SMCA, "model.pixel_std", [1, 0, 1], "pixel_std"),
    (SMCA, "model.input_format", "HSV", "input_format is 'HSV', expected RGB or BGR"),
    (SMCA, "model.inference_dtype", "int8", "inference_dtype is 'int8'"),
    (SMCA, "model.encoder.num_layers", -1, "num_layers is -1, must be 0 or more"),
    (SMCA, "model.encoder.layer.dropout", 1.5, r"dropout is 1.5, must be in \[0, 1\]"),
    (SMCA, "model.encoder.layer.dropout", -0.1, r"dropout is -0.1, must be in \[0, 1\]"),
    (SMCA, f"{ATTENTION}.dropout", math.nan, r"cross_attention.dropout, do not fit"),
    (SMCA, "model.decoder.layer.hidden_dim", 0, "hidden_dim is 0, must be 1 or more"),
    (SMCA, "model.decoder.layer.aligner.pooler.size", 0, "size is 0, must be 1 or more"),
    (SMCA, f"{RESAMPLER}.hidden_dims", [], "hidden_dims is 0"),
    (SMCA, f"{ATTENTION}.prior.bandwidth", 0.0, "bandwidth is 0.0, must be above 0"),
    (SMCA, "model.criterion.alpha", 2, r"alpha is 2, must be in \[0, 1\]"),
    (SMCA, "model.criterion.matcher.giou_weight", -1.0, "giou_weight is -1.0, must be 0 or more"),
    (SMCA, "model.neck.norm", "XN", "model.neck cannot be built"),
    (SMCA, "model.backbone.norm", "XN", "model.backbone cannot be built"),
    (SMCA, "optimizer.lr", -1e-4, "optimizer.lr is -0.0001, expected a finite number, 0 or more"),
    (SMCA, "optimizer.lr", math.nan, "optimizer.lr is nan"),
    (SMCA, "optimizer.params.base_lr", math.inf, "lr=inf, expected 0 or more, and finite"),
    (SMCA, "optimizer.weight_decay", -1.0, "the optimizer cannot be built: Invalid weight_decay"),
    (SMCA, "optimizer.params.lr_factor_func.factor", -1.0, "factor is -1.0, must be 0 or more"),
    (SMCA, "lr_multiplier.warmup_length", 3, "lr_multiplier.warmup_length is 3"),
    (SMCA, "lr_multiplier.scheduler.end_value", -1.0, "lr_multiplier is -0.* 0 or more"),
    # Settings of the run.
    (SMCA, "train.max_iter", 0, "train.max_iter is 0, expected an integer, 1 or more"),
    (SMCA, "train.max_iter", -5, "train.max_iter is -5"),
    (SMCA, "train.max_iter", 1.5, "train.max_iter is 1.5"),
    (SMCA, "train.seed", -2, "train.seed is -2"),
    (SMCA, "train.output_dir", "", "train.output_dir is '', expected the path of a folder"),
    (SMCA, "train.eval_period", -1, "train.eval_period is -1, expected an integer, 0 or more"),
    (SMCA, "train.log_period", 0, "train.log_period is 0"),
    (SMCA, "train.checkpointer.period", 0, "train.checkpointer.period is 0"),
    (SMCA, "train.checkpointer.max_to_keep", 0, "max_to_keep is 0, expected .* or null"),
    (SMCA, "train.checkpointer.perod", 5, "train.checkpointer.perod: .* nearest is 'period'"),
    (SMCA, "train.clip_grad.max_norm", 0.0, "train.clip_grad.max_norm is 0.0"),
    (SMCA, "train.clip_grad.max_norm", -1.0, "train.clip_grad.max_norm is -1.0"),
    (SMCA, "train.clip_grad.max_norm", math.nan, "train.clip_grad.max_norm is nan"),
    (SMCA, "train.amp.dtype", "float8", "train.amp.dtype is 'float8', expected one of"),
    (SMCA, "train.amp", {"enabled": True, "dtype": "float16"}, "'float16', which needs a GPU"),
    (SMCA, "train.amp", True, "train.amp is True, expected a group of keys"),
    (SMCA, "train.amp", {"enabled": True}, "the config lacks train.amp.dtype"),
    (SMCA, "train.device", "gpu", "train.device 'gpu' is none: expected cpu, cuda or cuda:0"),
    (SMCA, "train.ddp.brodcast_buffers", True, "its nearest is 'broadcast_buffers'"),
    (SMCA, "train.ddp.broadcast_buffers", 1, "broadcast_buffers is 1, expected true or false"),
    (SMCA, "train.max_itr", 5, "train.max_itr: there is no such key, its nearest is 'max_iter'"),
    (SMCA, "train.compile", ["backbon"], "to compile 'backbon': the model has no such part"),
    (SMCA, "dataloader.train.total_batch_size", 0, "total_batch_size is 0"),
    (SMCA, "dataloader.train.num_workers", -1, "dataloader.train.num_workers is -1"),
    (SMCA, "dataloader.test.num_workers", -1, "dataloader.test.num_workers is -1"),
    (SMCA, "dataloader.train.mapper.is_train", False, "mapper.is_train is False, expected true"),
    (SMCA, "dataloader.train.mapper.image_format", "CMYK", "image_format is 'CMYK'"),
    (SMCA, "dataloader.train.mapper.image_format", "BGR", "'BGR', but model.input_format 'RGB'"),
    (SMCA, "dataloader.test.mapper.image_format", "BGR", "'BGR', but model.input_format 'RGB'"),
    (SMCA, "model.input_format", "BGR", "image_format is 'RGB', but model.input_format 'BGR'"),
    (SMCA, f"{RESIZING}.max_size", "x", "max_size is 'x', expected an integer"),
    (SMCA, f"{RESIZING}.max_size", 0, "max_size is 0, must be 1 or more"),
    (SMCA, f"{RESIZING}.short_edge_length", -1, "short_edge_length is -1, must be 0 or more"),
    (SMCA, f"{RESIZING}.short_edge_length", [], r"short_edge_length is \[\], must be 0 or more"),
    (SMCA, f"{RESIZING}.short_edge_length", [9.5, 10], "length is .*, must be 0 or more"),
    (SMCA, f"{RESIZING}.short_edge_length", [96, 64], "the least and the greatest"),
    (SMCA, f"{RESIZING}.short_edge_length", [8, 9, 10], "the least and the greatest"),
    (SMCA, f"{RESIZING}.sample_style", "choise", "sample_style is 'choise', must be range or"),
    (SMCA, "dataloader.train.mapper", None, "dataloader.train.mapper is None, expected a part"),
    (SMCA, "dataloader.evaluator", None, "dataloader.evaluator is None, expected a call"),
    # Calls.
    (SMCA, "model._target_", "samdetr.modeling.SAMDET", "model._target_ is .* cannot be found"),
    (SMCA, "model._target_", "samdetr.modeling.attention.__doc__", "which cannot be called"),
    (SMCA, "model.criterion", 5, "model.criterion is 5, expected a part, with a _target_"),
    (SMCA, "model.criterion", {"_target_": "samdetr.modeling.SetCriterion"}, "lacks 'matcher'"),
    (SMCA, "model.neck.dimm", 64, "model.neck.dimm: ChannelMapper.* its nearest is 'dim'"),
    (SMCA, "model.neck.dim", "64", "neck.*dim is '64', expected an integer"),
    (SMCA, "model.num_queries", "${model.num_querys}", "num_queries refers to what is not"),
    (SMCA, "model.num_queries", "${model.num_queries}", "refers to what is not there"),
    (SMCA, "model.num_queries", "???", "num_queries refers to what is not there"),
]


@pytest.mark.parametrize(
    ("name", "key", "value", "message"), WRONG, ids=[f"{x[1]}={x[2]}" for x in WRONG]
)
def test_what_cannot_be_is_refused_by_key_and_value(name, key, value, message):
    place = [int(x) if x.isdecimal() else x for x in key.split(".")]
    with pytest.raises(ConfigError, match=message):
        prepare(put(content_of(name), place, value))


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


BEFORE_DATA = [
    "model.decoder.levels=[5]",
    "model.num_queries=0",
    "model.encoder.layer.dim=32",
    "optimizer.lr=-1",
    "optimizer.params.base_lr=-1",
    "train.max_iter=0",
    "train.amp.dtype=float8",
    "train.amp={enabled: true, dtype: float16}",
    "train.device=gpu",
    "train.log_period=0",
    "train.compile=[backbon]",
    "train.clip_grad.max_norm=nan",
    "dataloader.train.num_workers=-1",
    "dataloader.train.total_batch_size=0",
    "lr_multiplier.warmup_length=3",
    "lr_multiplier.scheduler.start_value=-1",
    "dataloader.evaluator._target_=samdetr.evaluation.Nothing",
    "dataloader.train.mapper.augmentations.0.max_size=none",
]


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


def test_unknown_keys_of_ones_own_are_left_alone():
    cfg = load_config(model_zoo.get_config_file(VARIANTS[0]), ["+train.note=mine", "+own.key=1"])
    assert cfg.train.note == "mine" and cfg.own.key == 1
