"""The zoo: every config by its name, in a checkout, with what is known about it."""

from __future__ import annotations

import builtins
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig

import samdetr
from samdetr import model_zoo
from samdetr.engine import ConfigError, load_config
from samdetr.model_zoo import __main__ as command
from samdetr.model_zoo import zoo

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
MINI = "mini/sam_detr_smca"
TRAINED = sorted(x.stem for x in zoo.WEIGHTS.glob("*.pth") if x.stem != "mini_backbone")
# As printed in the paper's tables.
PAPER = {
    "coco/detr_r50_12ep": "AP 22.3 (table 1)",
    "coco/sam_detr_pp_r50_smca_dn_12ep": "AP 44.8 (table 1)",
    "coco/sam_detr_pp_r50_smca_dn_50ep": "AP 49.1 (table 2)",
    "ablations/table3_row10_multi_scale": "AP 41.9 (table 3)",
    "ablations/table4_row2_image": "AP 30.0 (table 4)",
    "ablations/figure7_8_keypoints": "AP 33.1 (figure 7)",
    "ablations/figure7_2_keypoints": "None",  # only drawn, without a number
    "voc/sam_detr_pp_r50_smca_50ep": "AP50 79.6 (table 5)",
    "mini/ablations/table3_row8_no_dropout": "None",
}


def text(cfg, folder):
    LazyConfig.save(cfg, str(folder / "config.yaml"))
    return (folder / "config.yaml").read_text()


def test_names_are_the_files_of_the_checkout_without_their_parts():
    files = (x.relative_to(CONFIGS).with_suffix("").as_posix() for x in CONFIGS.rglob("*.py"))
    assert model_zoo.list() == sorted(x for x in files if not x.startswith("common/"))


def test_a_pattern_chooses_names():
    found = model_zoo.list("coco/*_dn_*")
    assert "coco/sam_detr_pp_r50_smca_dn_12ep" in found
    assert found == [x for x in model_zoo.list() if x.startswith("coco/") and "_dn_" in x]
    assert model_zoo.list("nothing*") == []


@pytest.mark.parametrize("name", [MINI, f"{MINI}.py", "coco/sam_detr_pp_r50_smca_dn_12ep"])
def test_config_is_that_of_its_file(name, tmp_path):
    file = CONFIGS / f"{name.removesuffix('.py')}.py"
    assert Path(model_zoo.get_config_file(name)) == file
    assert text(model_zoo.get_config(name), tmp_path) == text(load_config(str(file)), tmp_path)
    assert model_zoo.get_config(name, ["train.max_iter=7"]).train.max_iter == 7


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("mini/sam_detr_smcaa", MINI), ("sam_detr_pp_r50_12ep", "coco/sam_detr_pp_r50_12ep")],
)
def test_an_unknown_name_is_an_error_with_the_nearest(name, nearest):
    for function in (
        model_zoo.get_config_file,
        model_zoo.get_config,
        model_zoo.get_checkpoint,
        model_zoo.get,
        model_zoo.row,
        model_zoo.load_any,
    ):
        with pytest.raises(ConfigError, match=f"{name!r} is not in the zoo, its nearest are") as e:
            function(name)
        assert nearest in str(e.value)


def test_common_parts_are_no_configs():
    with pytest.raises(model_zoo.UnknownConfigError):
        model_zoo.get_config("common/train")


def test_a_package_without_configs_says_where_they_should_be(tmp_path, monkeypatch):
    monkeypatch.setattr(zoo, "FOLDERS", (tmp_path / "a", tmp_path / "b"))
    with pytest.raises(FileNotFoundError, match="neither in .*a nor in .*b"):
        model_zoo.list()


def test_every_trained_model_in_the_package_belongs_to_a_config():
    found = [model_zoo.get_checkpoint(x) for x in model_zoo.list()]
    assert TRAINED and sorted(Path(x).stem for x in found if x) == TRAINED


def test_a_model_has_the_weights_of_the_package_of_a_file_or_random_ones(tmp_path):
    shipped = torch.load(model_zoo.get_checkpoint(MINI))["model"]
    model = model_zoo.get(MINI, device="cpu")
    weights = model.state_dict()
    assert model.training
    for name, weight in shipped.items():
        torch.testing.assert_close(weights[name], weight.to(weights[name].dtype), msg=name)

    torch.save({"model": {k: v + 1 for k, v in weights.items()}}, tmp_path / "other.pth")
    other = model_zoo.get(MINI, str(tmp_path / "other.pth"), "cpu").state_dict()
    random = model_zoo.get(MINI, "", "cpu").state_dict()
    name = next(x for x in weights if x.startswith("decoder.") and weights[x].dim() == 2)
    torch.testing.assert_close(other[name], weights[name] + 1)
    assert not torch.isclose(random[name], weights[name]).any(dim=1).all()


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_a_device_that_is_not_there_is_an_error(device):
    with pytest.raises(ConfigError, match=r"device"):
        model_zoo.get(MINI, device=device)


@pytest.mark.parametrize("name", PAPER)
def test_a_row_has_the_figure_of_the_paper(name):
    row = model_zoo.row(name)
    assert str(row.paper) == PAPER[name]
    assert row.name == name and row.title.endswith(("." if row.title else "", ","))


@pytest.mark.parametrize(
    ("name", "parameters", "first", "last", "count"),
    [
        ("coco/sam_detr_r50_12ep", 58_057_096, "person", "toothbrush", 80),
        ("coco/faster_rcnn_r50_fpn_12ep", 41_699_936, "person", "toothbrush", 80),
        ("voc/sam_detr_pp_r50_smca_50ep", 54_912_064, "aeroplane", "tvmonitor", 20),
    ],
)
def test_a_row_has_parameters_and_categories(name, parameters, first, last, count):
    row = model_zoo.row(name)
    assert row.parameters == parameters
    assert (row.classes[0], row.classes[-1], len(row.classes)) == (first, last, count)
    assert row.checkpoint is None and row.backbone.startswith("detectron2://ImageNetPretrained/")
    assert row.licence == "CC BY-SA 3.0, of Detectron2's model zoo"


def test_a_row_of_a_trained_model_points_to_its_file():
    row = model_zoo.row(MINI)
    assert row.parameters == sum(
        x.numel() for x in model_zoo.get(MINI, device="cpu").parameters() if x.requires_grad
    )
    assert row.checkpoint == str(zoo.WEIGHTS / "mini_sam_detr_smca.pth")
    assert row.classes == tuple("0123456789")
    assert row.licence.startswith("Apache-2.0") and "NOTICE" in row.licence


def test_a_model_that_needs_a_file_to_be_built_has_a_row_without_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    row = model_zoo.row("voc/sam_detr_pp_r50_smca_coco_boxes_50ep")
    assert row.parameters is None and str(row.paper) == "AP50 79.5 (table 5)"


def test_the_table_in_the_docs_is_the_printed_one(capsys):
    lines = (ROOT / "docs/model_zoo.md").read_text().splitlines()
    cells = {}
    for line in (x for x in lines if x.startswith("| ") and "/" in x.split("|")[1]):
        name, *rest = (x.strip() for x in line.strip("|").split("|"))
        cells[name] = rest
    assert list(cells) == model_zoo.list()

    command.main(["coco/*smca_dn_50ep"])
    command.main([MINI])
    printed = [x for x in capsys.readouterr().out.splitlines() if "/" in x.split("|")[1]]
    assert len(printed) == 2
    for line in printed:
        name, *rest = (x.strip() for x in line.strip("|").split("|"))
        assert cells[name] == rest


def test_the_command_lists_names_and_refuses_a_pattern_without_any(capsys):
    command.main(["voc/*", "--names"])
    assert capsys.readouterr().out.split() == model_zoo.list("voc/*")
    with pytest.raises(SystemExit) as exit:
        command.main(["nothing"])
    assert exit.value.code == 2 and "no config matches 'nothing'" in capsys.readouterr().err


def test_any_config_is_a_file_or_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = CONFIGS / "mini" / "detr.py"
    assert text(model_zoo.load_any(file), tmp_path) == text(
        model_zoo.load_any("mini/detr"), tmp_path
    )
    with pytest.raises(model_zoo.UnknownConfigError, match="missing.yaml is not a file, and"):
        model_zoo.load_any("missing.yaml")


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.py", "model = undefined"), ("a.py", "model = ("), ("a.yaml", "a: [1"), ("a.yaml", "- 1")],
)
def test_a_file_that_is_no_config_is_one_sentence(name, content, tmp_path, monkeypatch):
    monkeypatch.setattr(builtins, "__import__", builtins.__import__)  # LazyConfig leaves its own
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=f"{name} (cannot be read|lacks model)"):
        model_zoo.load_any(tmp_path / name)


def test_zoo_and_predictor_are_attributes_of_the_package():
    assert samdetr.model_zoo is model_zoo
    assert samdetr.Predictor.__module__ == "samdetr.predictor"
    with pytest.raises(AttributeError, match="module 'samdetr' has no attribute 'predictr'"):
        _ = samdetr.predictr
