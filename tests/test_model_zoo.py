"""The zoo: every config by its name, and the facts about each."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig

from samdetr import model_zoo
from samdetr.engine import ConfigError, load_config

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
MINI = "mini/sam_detr_smca"
FIGURES = {  # as printed in the paper's tables
    "coco/detr_r50_12ep": "AP 22.3 (table 1)",
    "coco/sam_detr_pp_r50_smca_dn_50ep": "AP 49.1 (table 2)",
    "ablations/table3_row10_multi_scale": "AP 41.9 (table 3)",
    "ablations/figure7_8_keypoints": "AP 33.1 (figure 7)",
    "ablations/figure7_2_keypoints": "None",  # drawn without a number
    "voc/sam_detr_pp_r50_smca_50ep": "AP50 79.6 (table 5)",
    "mini/ablations/table3_row8_no_dropout": "None",
}


def text(cfg, folder):
    LazyConfig.save(cfg, str(folder / "config.yaml"))
    return (folder / "config.yaml").read_text()


def test_a_config_is_that_of_its_file_by_name_or_path(tmp_path):
    file = CONFIGS / f"{MINI}.py"
    expected = text(load_config(str(file)), tmp_path)
    assert Path(model_zoo.get_config_file(f"{MINI}.py")) == file
    for cfg in (model_zoo.get_config(MINI), model_zoo.load_any(file), model_zoo.load_any(MINI)):
        assert text(cfg, tmp_path) == expected
    assert model_zoo.get_config(MINI, ["train.max_iter=7"]).train.max_iter == 7


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("mini/sam_detr_smcaa", MINI), ("sam_detr_pp_r50_12ep", "coco/sam_detr_pp_r50_12ep")],
)
def test_an_unknown_name_is_an_error_with_the_nearest(name, nearest):
    for function in (model_zoo.get, model_zoo.get_checkpoint, model_zoo.row, model_zoo.load_any):
        with pytest.raises(ConfigError, match=f"{name!r} is not in the zoo.* {nearest}"):
            function(name)


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


@pytest.mark.parametrize("name", FIGURES)
def test_a_row_has_the_figure_of_the_paper(name):
    assert str(model_zoo.row(name).paper) == FIGURES[name]


@pytest.mark.parametrize(
    ("name", "parameters", "first", "last", "count"),
    [
        ("coco/sam_detr_r50_12ep", 58_057_096, "person", "toothbrush", 80),
        ("voc/sam_detr_pp_r50_smca_50ep", 54_912_064, "aeroplane", "tvmonitor", 20),
    ],
)
def test_a_row_has_parameters_categories_and_the_origin_of_the_weights(
    name, parameters, first, last, count
):
    row = model_zoo.row(name)
    assert row.parameters == parameters
    assert (row.classes[0], row.classes[-1], len(row.classes)) == (first, last, count)
    assert row.checkpoint is None and row.backbone.startswith("detectron2://ImageNetPretrained/")
    assert row.licence.startswith("CC BY-SA 3.0")


def test_the_table_in_the_docs_is_the_printed_one(capsys):
    def cells(lines):
        rows = [[x.strip() for x in line.strip("|").split("|")] for line in lines]
        return {row[0]: row[1:] for row in rows if len(row) > 1 and "/" in row[0]}

    documented = cells((ROOT / "docs/model_zoo.md").read_text().splitlines())
    assert [*documented] == model_zoo.list()
    model_zoo.main(["coco/*smca_dn_50ep"])
    model_zoo.main([MINI])
    printed = cells(capsys.readouterr().out.splitlines())
    assert len(printed) == 2 and printed.items() <= documented.items()


def test_the_command_lists_names_and_refuses_a_pattern_without_any(capsys):
    model_zoo.main(["voc/*", "--names"])
    assert capsys.readouterr().out.split() == model_zoo.list("voc/*")
    with pytest.raises(SystemExit) as stop:
        model_zoo.main(["nothing"])
    assert stop.value.code == 2 and "no config matches 'nothing'" in capsys.readouterr().err
