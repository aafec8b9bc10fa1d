"""The ablations of tables 3, 4 and 5 and of figure 7: each differs in what it is about, only."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from torch import nn

from conftest import make_batch
from samdetr.engine import build_optimizer, load_config
from samdetr.modeling import (
    AlignedCrossAttention,
    AverageResampler,
    CheckpointReference,
    ConcatenatedCrossAttention,
    Gate,
    ImageKeypointResampler,
    KeypointResampler,
    LearnedReference,
    MaxResampler,
    OpenGate,
    RandomReference,
)

pytestmark = pytest.mark.slow

CONFIGS = Path(__file__).parents[1] / "configs"
ABLATIONS = sorted(f"ablations/{x.stem}" for x in (CONFIGS / "ablations").glob("*.py"))
VOC = sorted(f"voc/{x.stem}" for x in (CONFIGS / "voc").glob("*.py"))
MINI = sorted(f"mini/ablations/{x.stem}" for x in (CONFIGS / "mini" / "ablations").glob("*.py"))
SIZES = ((64, 48), (40, 56), (32, 72))


class Choice(NamedTuple):
    """What an ablation of the aligner is about."""

    resampler: type[nn.Module] = KeypointResampler
    num_points: int = 8
    gate: type[nn.Module] = Gate
    dropout: float = 0.1
    multi_scale: bool = False


ALIGNED = {
    "table3_row2_average": Choice(AverageResampler, 1, OpenGate),
    "table3_row3_max": Choice(MaxResampler, 1, OpenGate),
    "table3_row4_keypoint": Choice(num_points=1, gate=OpenGate),
    "table3_row5_keypoint_reweighting": Choice(num_points=1),
    "table3_row6_keypoints": Choice(gate=OpenGate),
    "table3_row7_keypoints_reweighting": Choice(),
    "table3_row8_no_dropout": Choice(dropout=0.0),
    "table3_row10_multi_scale": Choice(dropout=0.0, multi_scale=True),
    "table4_row1_box": Choice(),
    "table4_row2_image": Choice(ImageKeypointResampler),
    "figure7_1_keypoint": Choice(num_points=1),
    "figure7_2_keypoints": Choice(num_points=2),
    "figure7_4_keypoints": Choice(num_points=4),
    "figure7_8_keypoints": Choice(),
    "figure7_16_keypoints": Choice(num_points=16),
}
BOXES = {
    "voc/sam_detr_pp_r50_smca_50ep": LearnedReference,
    "voc/sam_detr_pp_r50_smca_coco_boxes_50ep": CheckpointReference,
    "voc/sam_detr_pp_r50_smca_random_boxes_50ep": RandomReference,
    "mini/ablations/table5_learned": LearnedReference,
    "mini/ablations/table5_coco": CheckpointReference,
    "mini/ablations/table5_random": RandomReference,
}


def load(name: str, folder: Path) -> Any:
    """A config; a checkpoint that it takes boxes from is made in a folder."""
    cfg = load_config(str(CONFIGS / f"{name}.py"))
    if "path" in cfg.model.queries:
        cfg.model.queries.path = str(folder / "boxes.pth")
        boxes = torch.linspace(-2, 2, 4 * cfg.model.num_queries).view(-1, 4)
        torch.save({"model": {"queries.reference.weight": boxes}}, cfg.model.queries.path)
    return cfg


def build(cfg: Any, device: str = "meta") -> nn.Module:
    with torch.device(device):
        return instantiate(cfg.model)


@pytest.mark.usefixtures("shapes_only")
@pytest.mark.parametrize("name", ABLATIONS + MINI + VOC)
def test_an_ablation_survives_a_yaml_round_trip_and_builds(name, tmp_path):
    cfg = load(name, tmp_path)
    assert set(cfg) == {"model", "dataloader", "optimizer", "lr_multiplier", "train"}
    assert cfg.train.output_dir == f"output/{name}"
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    saved = load_config(str(tmp_path / "config.yaml"))
    LazyConfig.save(saved, str(tmp_path / "again.yaml"))
    assert not (tmp_path / "config.yaml.pkl").exists()
    assert (tmp_path / "again.yaml").read_text() == (tmp_path / "config.yaml").read_text()
    assert build(saved).num_classes == cfg.model.num_classes


@pytest.mark.usefixtures("shapes_only")
@pytest.mark.parametrize("folder", ["ablations", "mini/ablations"])
@pytest.mark.parametrize("row", ALIGNED)
def test_a_row_is_what_the_table_says(row, folder, tmp_path):
    cfg, expected = load(f"{folder}/{row}", tmp_path), ALIGNED[row]
    model = build(cfg)
    for layer in model.decoder.layers:
        aligner, attention = layer.aligner, layer.cross_attention
        gates = {type(aligner.content_gate), type(aligner.position_gate)}
        assert type(aligner.resampler) is expected.resampler and gates == {expected.gate}
        assert aligner.num_points == attention.num_points == expected.num_points
        kinds = (AlignedCrossAttention, ConcatenatedCrossAttention)
        assert type(attention) is kinds[expected.num_points != attention.num_heads]
    dropouts = [x.p for x in model.modules() if isinstance(x, nn.Dropout)]
    assert set(dropouts) <= {0.0, expected.dropout} and expected.dropout in dropouts
    assert len(model.neck.in_channels) == (3 if expected.multi_scale else 1)


@pytest.mark.usefixtures("shapes_only")
@pytest.mark.parametrize("name", BOXES)
def test_only_learned_boxes_are_trained(name, tmp_path):
    cfg = load(name, tmp_path)
    model = build(cfg)
    assert type(model.queries) is BOXES[name]
    learned = BOXES[name] is LearnedReference
    assert [x for x, _ in model.queries.named_parameters()] == ["reference.weight"] * learned
    trained = {
        id(x) for y in build_optimizer(cfg.optimizer, model).param_groups for x in y["params"]
    }
    assert {id(x) for x in model.parameters() if x.requires_grad} == trained
    assert "queries.reference" + ".weight" * learned in model.state_dict()


@pytest.mark.parametrize("name", MINI)
def test_a_training_step_gives_every_parameter_a_finite_gradient(name, tmp_path):
    model = build(load(name, tmp_path), "cpu").train()
    losses = model(make_batch(SIZES, (3, 0, 1)))
    sum(losses.values()).backward()
    assert len(losses) == 9
    for parameter, x in model.named_parameters():
        assert x.grad is not None and x.grad.isfinite().all(), parameter
