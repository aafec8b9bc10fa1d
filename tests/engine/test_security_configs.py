"""What SECURITY.md promises of configs in YAML."""

import os
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import yaml
from detectron2.config import LazyConfig, instantiate
from hypothesis import given
from hypothesis import strategies as st

from command_line import train_net
from hostile import marking
from samdetr import Predictor, model_zoo
from samdetr.engine import ConfigError, load_config
from samdetr.engine.trust import find, read_yaml

ROOT = Path(__file__).parents[2]
MINI = "mini/sam_detr_smca"


@pytest.fixture
def marker(tmp_path, monkeypatch):
    yield from marking(tmp_path, monkeypatch)


@cache
def plain():
    """The text of the config that a run of the small detector saves."""
    with TemporaryDirectory() as folder:
        file = Path(folder, "config.yaml")
        LazyConfig.save(model_zoo.get_config(MINI, ["train.device=cpu"]), str(file))
        return file.read_text()


def mini(**changes):
    """The text of a run's config, with values put in by dotted keys."""
    content = yaml.safe_load(plain())
    for key, value in changes.items():
        *groups, name = key.split("__")
        part = content
        for group in groups:
            part = part[int(group) if isinstance(part, list) else group]
        part[name] = value
    return yaml.dump(content)


COMMAND = {"_target_": "os.system", "command": "echo > marker"}
HOSTILE_VALUES = [
    ("os.system", COMMAND),
    ("module of a package", {**COMMAND, "_target_": "samdetr.data.own.os.system"}),
    ("module below torch", {**COMMAND, "_target_": "torch.nn.modules.module.torch.os.system"}),
    ("subprocess", {"_target_": "convergence.study.subprocess.run", "args": ["true"]}),
    ("eval", {"_target_": "builtins.eval", "source": "open('marker', 'w')"}),
    ("torch.load", {"_target_": "torch.load", "f": "x.pth", "weights_only": False}),
    ("torch.hub", {"_target_": "torch.hub.load", "repo_or_dir": "a/b", "model": "c"}),
    ("instantiate", {"_target_": "detectron2.config.instantiate", "cfg": COMMAND}),
    ("LazyConfig", {"_target_": "detectron2.config.LazyConfig.load", "filename": "evil.py"}),
    ("locate", {"_target_": "detectron2.utils.registry.locate", "name": "os.system"}),
    ("PathManager", {"_target_": "detectron2.utils.file_io.PathManager.rm", "path": "marker"}),
    ("call of a call", {"_target_": {"_target_": "detectron2.utils.registry.locate"}}),
    ("not a name", {"_target_": "os.system('echo > marker')"}),
    ("reference", {"_target_": "${train.output_dir}"}),
    ("writer of pickles", {"_target_": "samdetr.convert.save_model", "path": "marker"}),
    ("other detectors", {"_target_": "detectron2.modeling.mmdet_wrapper.MMDetBackbone"}),
    (
        "proposals, which are pickles",
        {
            "_target_": "detectron2.data.get_detection_dataset_dicts",
            "names": "coco_2017_val",
            "proposal_files": ["x.pkl"],
        },
    ),
    (
        "proposals by an older config",
        {
            "_target_": "detectron2.data.build_detection_test_loader",
            "cfg": {"DATASETS": {"PROPOSAL_FILES_TEST": ["x.pkl"]}},
        },
    ),
]


@pytest.mark.parametrize(("name", "value"), HOSTILE_VALUES, ids=[x for x, _ in HOSTILE_VALUES])
@pytest.mark.parametrize("place", ["model", "dataloader__train__mapper", "extra"])
def test_a_config_of_a_stranger_calls_nothing_but_parts(marker, name, value, place):
    Path("config.yaml").write_text(mini(**{place: value}))

    with pytest.raises(ConfigError, match=place.replace("__", r"\.") + r"\.(_target_|cfg)"):
        load_config("config.yaml")


def test_a_predictor_refuses_and_trusts_as_it_is_told(marker):
    Path("config.yaml").write_text(mini(model__backbone__extra=COMMAND))
    with pytest.raises(ConfigError, match=r"model\.backbone\.extra\._target_"):
        Predictor("config.yaml", "", device="cpu")
    with pytest.raises(ConfigError, match=r"model\.backbone\.extra: .* no such argument"):
        Predictor("config.yaml", "", device="cpu", trusted_config=True)


def test_the_hostile_config_does_what_it_says_if_it_is_trusted(tmp_path, monkeypatch):
    """Were it not so, the tests before would prove nothing."""
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text(mini(extra=COMMAND))

    with pytest.raises(ConfigError):
        load_config("config.yaml")
    assert not Path("marker").exists()
    assert instantiate(load_config("config.yaml", trusted=True).extra) == 0
    assert Path("marker").exists()


TAGS = [
    "!!python/object/apply:os.system ['echo > marker']",
    "!!python/object/new:os.system ['echo > marker']",
    "!!python/object:samdetr.engine.trust.ConfigLoader {}",
    "!!python/module:antigravity ''",
    "!!python/name:os.system ''",
    "!!python/object:detectron2.layers.shape_spec.ShapeSpec {evil: 1}",
    "!!python/object:detectron2.layers.shape_spec.ShapeSpec {channels: '${oc.env:HOME}'}",
    "!!python/name:detectron2.data.build.build_detection_test_loader ''",
    "{_target_: torch.utils.model_dump.__main__.x}",  # a program that importing would run
]


@pytest.mark.parametrize("tag", TAGS)
def test_tags_of_python_run_nothing(marker, tag):
    Path("config.yaml").write_text(mini() + f"extra: {tag}\n")
    with pytest.raises(ConfigError, match=r"config\.yaml( cannot be read)?: "):
        load_config("config.yaml")


def test_what_detectron2_writes_by_tags_is_read(marker):
    Path("config.yaml").write_text(
        mini()
        + "block: !!python/name:detectron2.modeling.backbone.resnet.BottleneckBlock ''\n"
        + "pair: !!python/tuple [1, 2]\n"
    )
    cfg = load_config("config.yaml")
    assert cfg.block.__name__ == "BottleneckBlock" and list(cfg.pair) == [1, 2]


@pytest.mark.parametrize(
    "value",
    [
        "${oc.env:HOME}",
        "${oc.decode:'{_target_: os.system}'}",
        "a ${train.${oc.env:X}} b",
        "${x:1}",
        # What these are put together of is no resolver.
        "${half}{oc.env:HOME}",
        "${half}${other_half}",
        "${half}a${other_half}{",
        "\\${half}{oc.env:HOME}",
    ],
)
def test_resolvers_are_refused(marker, value):
    changes = {"half": "$", "other_half": "{oc.env:HOME}", "train__output_dir": value}
    Path("config.yaml").write_text(mini(**changes))
    with pytest.raises(ConfigError, match=r"train\.output_dir is .* resolver"):
        load_config("config.yaml")


def test_a_text_of_yaml_in_yaml_is_no_config(marker):
    Path("config.yaml").write_text(yaml.dump(mini(model=COMMAND)))
    with pytest.raises(ConfigError, match="expected keys and values"):
        load_config("config.yaml")


@pytest.mark.parametrize(
    "text",
    [
        "a: &a ["
        + "x, " * 9
        + "x]\n"
        + "".join(
            f"{y}: &{y} [" + f"*{x}, " * 9 + f"*{x}]\n" for x, y in zip("abcdefgh", "bcdefghi")
        ),
        "a: &a [*a]\n",
        "a: " + "[" * 100_000,
        "a: " + "{a: " * 150 + "1" + "}" * 150,
        "".join(f"{y}: [" + f"'${{{x}}}', " * 10 + "]\n" for x, y in zip("abcdefg", "bcdefgh"))
        + "a: 1\n",
        "".join(f"{y}: '{x}" + f" ${{{x}}}" * 10 + "'\n" for x, y in zip("abcdefgh", "bcdefghi"))
        + "a: 1\n",
        "a: '${.b}'\nb: ['${..a}']\n",
        "a: " + "x" * 10_000 + "\nb: [" + "'${a}', " * 2_000 + "]\n",
        "a: -0x" + "f" * 5_000,
        "null: 1",
        "? !!python/tuple [1, 2]\n: 3",
    ],
    ids=[
        "billion",
        "itself",
        "deep",
        "deeper than OmegaConf goes",
        "references in lists",
        "references in texts",
        "references in a circle",
        "references to a long text",
        "a number that cannot be printed",
        "a key that is nothing",
        "a key that is a tuple",
    ],
)
def test_a_short_file_does_not_become_a_long_one(marker, text):
    Path("config.yaml").write_text(text)
    with pytest.raises(ConfigError):
        read_yaml("config.yaml")


@pytest.mark.parametrize("argument", ["cfg", "cfg_per_block"])
def test_no_call_of_a_call_is_given_a_whole_config(marker, argument):
    """`make_stage` would call the class with the `cfg` of each block."""
    stage = {
        "_target_": "detectron2.modeling.backbone.resnet.ResNet.make_stage",
        "num_blocks": 1,
        "in_channels": 1,
        "out_channels": 1,
        argument: [{"DATASETS": {"PROPOSAL_FILES_TEST": ["x.pkl"]}}],
    }
    Path("config.yaml").write_text(mini(model__backbone__stages=[stage]))
    with pytest.raises(ConfigError, match=rf"stages\.0\.{argument}: .* whole config"):
        load_config("config.yaml")


def test_references_may_stand_in_texts_one_after_the_other(marker):
    changes = {"a": "US$", "b": {"c": "x{y}", "d": "${.c} and ${..a}"}, "e": ["${b}"]}
    Path("config.yaml").write_text(mini(**changes))
    cfg = load_config("config.yaml")
    assert cfg.b.d == "x{y} and US$" and cfg.e[0].c == "x{y}"


@pytest.mark.parametrize("name", ["mini/sam_detr_pp_smca_dn", "coco/faster_rcnn_r50_dc5_12ep"])
def test_the_config_of_a_run_needs_no_trust_and_its_overrides_are_free(marker, name):
    cfg = model_zoo.get_config(name)
    LazyConfig.save(cfg, "config.yaml")

    found = load_config("config.yaml")

    assert found.train == cfg.train
    own = load_config("config.yaml", ["model._target_=builtins.dict", "+train.x=${oc.env:HOME}"])
    assert own.model._target_ == "builtins.dict" and own.train.x == os.environ["HOME"]


def test_train_net_refuses_and_trusts_by_its_option(marker, capsys):
    Path("config.yaml").write_text(
        mini(model={"_target_": f"{__name__}.never", "num_classes": 1, "num_queries": 1})
    )

    assert train_net("--config-file", "config.yaml") == 2
    output = capsys.readouterr().err
    assert (
        "model._target_: 'test_security_configs.never'" in output and "--trusted-config" in output
    )
    assert train_net("--config-file", "config.yaml", "--trusted-config") == 2
    assert "the model cannot be built: nothing to build" in capsys.readouterr().err


def never(num_classes, num_queries):
    raise ValueError("nothing to build")


@given(st.text(alphabet="abcdefghijklmnopqrstuvwxyz._", max_size=30))
def test_no_name_leads_out_of_the_list(name):
    for prefix in ("", "samdetr.", "detectron2.data.", "torch.nn.modules."):
        try:
            found = find(prefix + name)
        except ConfigError:
            continue
        assert found.__module__.split(".")[0] in ("samdetr", "detectron2", "torch", "fvcore")
