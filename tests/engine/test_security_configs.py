"""A YAML config of a stranger calls nothing but parts of detectors; see SECURITY.md."""

import os
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import yaml
from detectron2.config import LazyConfig
from hypothesis import given
from hypothesis import strategies as st

from samdetr import Predictor, model_zoo
from samdetr.engine import ConfigError, load_config
from samdetr.engine.safe_yaml import PACKAGES, find

MINI = "mini/sam_detr_smca"
COMMAND = {"_target_": "os.system", "command": "echo > marker"}


@pytest.fixture
def marker(tmp_path, monkeypatch):
    """The file that hostile input would write, in the working folder."""
    monkeypatch.chdir(tmp_path)
    yield
    assert not Path("marker").exists()


@cache
def plain():
    """The text of the config that a run of the small detector saves."""
    with TemporaryDirectory() as folder:
        file = Path(folder, "config.yaml")
        LazyConfig.save(model_zoo.get_config(MINI, ["train.device=cpu"]), str(file))
        return file.read_text()


def mini(**changes):
    """The text of a run's config with values set by dotted keys, `__` in place of dots."""
    content = yaml.safe_load(plain())
    for key, value in changes.items():
        *groups, name = key.split("__")
        part = content
        for group in groups:
            part = part[group]
        part[name] = value
    return yaml.dump(content)


@pytest.mark.parametrize("place", ["model", "dataloader__train__mapper"])
@pytest.mark.parametrize(
    "value",
    [
        COMMAND,
        {**COMMAND, "_target_": "samdetr.data.loader.os.system"},
        {"_target_": "builtins.eval", "source": "open('marker', 'w')"},
        {"_target_": "torch.load", "f": "x.pth", "weights_only": False},
        {"_target_": "detectron2.config.instantiate", "cfg": COMMAND},
        {"_target_": "detectron2.data.datasets.coco.PathManager.rm", "path": "marker"},
        {"_target_": "samdetr.engine.load_config", "path": "evil.py"},
        {"_target_": {"_target_": "detectron2.utils.registry.locate"}},
        {"_target_": "os.system('echo > marker')"},
        {"_target_": "${train.output_dir}"},
        {"_target_": "samdetr.modeling.SAMDET"},
        {"_target_": "detectron2.modeling.mmdet_wrapper.MMDetBackbone"},
        {"_target_": "detectron2.data.get_detection_dataset_dicts", "proposal_files": ["x.pkl"]},
        {"_target_": "detectron2.data.build_detection_test_loader", "cfg": {"DATASETS": {}}},
    ],
    ids=lambda value: str(value["_target_"])[:40],
)
def test_a_call_of_anything_but_a_part_is_refused(marker, value, place):
    Path("config.yaml").write_text(mini(**{place: value}))
    with pytest.raises(ConfigError, match=r"^--config-file config\.yaml: "):
        load_config("config.yaml")


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:os.system ['echo > marker']",
        "!!python/name:os.system ''",
        "!!python/name:detectron2.data.build_detection_test_loader ''",
    ],
)
def test_python_tags_run_nothing(marker, tag):
    Path("config.yaml").write_text(mini() + f"extra: {tag}\n")
    with pytest.raises(ConfigError):
        load_config("config.yaml")


def test_the_tags_that_detectron2_writes_are_read(marker):
    Path("config.yaml").write_text(
        mini()
        + "block: !!python/name:detectron2.modeling.backbone.resnet.BottleneckBlock ''\n"
        + "pair: !!python/tuple [1, 2]\n"
        + "shape: !!python/object:detectron2.layers.shape_spec.ShapeSpec {channels: 3}\n"
    )
    cfg = load_config("config.yaml")
    assert cfg.block.__name__ == "BottleneckBlock" and list(cfg.pair) == [1, 2]
    assert cfg.shape.channels == 3


@pytest.mark.parametrize(
    "value",
    [
        "${oc.env:HOME}",
        "${oc.decode:'{_target_: os.system}'}",
        "a ${train.${oc.env:X}} b",
        "$${oc.env:X}",
    ],
)
def test_resolvers_are_refused(marker, value):
    Path("config.yaml").write_text(mini(train__output_dir=value))
    with pytest.raises(ConfigError, match=r"train\.output_dir is .* reference"):
        load_config("config.yaml")


def test_references_to_keys_are_resolved(marker):
    Path("config.yaml").write_text(mini(a="x", b={"c": "x{y}", "d": "${.c} and ${..a}"}))
    assert load_config("config.yaml").b.d == "x{y} and x"


@pytest.mark.parametrize("text", ["a: &a [*a]\n", "a: " + "[" * 100_000, "null: 1", "a: [", "text"])
def test_yaml_that_is_no_config_is_refused(marker, text):
    Path("config.yaml").write_text(text)
    with pytest.raises(ConfigError, match="config.yaml"):
        load_config("config.yaml")


@pytest.mark.parametrize(
    "name",
    ["mini/sam_detr_pp_smca_dn", "coco/faster_rcnn_r50_dc5_12ep", "lvis/sam_detr_r50_smca_12ep"],
)
def test_the_config_of_a_run_needs_no_trust_and_its_overrides_are_free(marker, name):
    cfg = model_zoo.get_config(name)
    LazyConfig.save(cfg, "config.yaml")
    assert load_config("config.yaml").train == cfg.train
    own = load_config("config.yaml", ["model._target_=builtins.dict", "+train.x=${oc.env:HOME}"])
    assert own.model._target_ == "builtins.dict" and own.train.x == os.environ["HOME"]


@given(st.text(alphabet="abcdefghijklmnopqrstuvwxyz._", max_size=30))
def test_no_name_leads_out_of_the_packages(name):
    for prefix in ("", *PACKAGES):
        try:
            found = find(prefix + name)
        except ConfigError:
            continue
        assert found.__module__.startswith(tuple(x.rstrip(".") for x in PACKAGES))


def never():
    raise ValueError("nothing to build")


def test_a_predictor_calls_parts_of_ones_own_only_if_the_config_is_trusted(marker):
    Path("config.yaml").write_text(mini(model={"_target_": f"{__name__}.never"}))
    with pytest.raises(ConfigError, match="is not in"):
        Predictor("config.yaml", "", device="cpu")
    with pytest.raises(ValueError, match="nothing to build"):
        Predictor("config.yaml", "", device="cpu", trusted_config=True)
