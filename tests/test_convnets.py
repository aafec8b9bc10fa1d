"""The ConvNets of table 1: Detectron2's models through the training and the data of ours."""

import math
import pickle
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.modeling.backbone.resnet import BasicStem, ResNet
from detectron2.utils.events import EventStorage
from torch.testing import assert_close

from conftest import make_batch
from samdetr.checkpoint import Checkpointer, CheckpointError, InitialCheckpointer
from samdetr.engine import build_optimizer, load_config

pytestmark = pytest.mark.slow

COCO = Path(__file__).parents[1] / "configs" / "coco"
MILLIONS = {  # of parameters, in table 1
    "faster_rcnn_r50_c4_12ep": 34,
    "faster_rcnn_r50_dc5_12ep": 166,
    "faster_rcnn_r50_fpn_12ep": 42,
    "cascade_rcnn_r50_fpn_12ep": 69,
    "fcos_r50_fpn_12ep": 32,
}
SIZES = ((64, 48), (40, 56), (32, 72))
COUNTS = {"empty": (0, 0, 0), "half-empty": (3, 0, 1)}


def load(name):
    return load_config(str(COCO / f"{name}.py"))


def small(name):
    """The model with few regions per image and narrow layers on them."""
    model = load(name).model
    if name.startswith("fcos"):
        return instantiate(model)
    model.proposal_generator.update(batch_size_per_image=16, post_nms_topk=(16, 16))
    model.roi_heads.batch_size_per_image = 4
    if "dc5" in name:
        model.roi_heads.box_head.fc_dims = [8, 1024]
    return instantiate(model)


def resnet50(in_1x1=True):
    stages = ResNet.make_default_stages(50, stride_in_1x1=in_1x1, norm="FrozenBN")
    return ResNet(BasicStem(norm="FrozenBN"), stages, num_classes=1000)


@pytest.mark.parametrize("name", MILLIONS)
def test_convnet_survives_a_yaml_round_trip_and_has_the_parameters_of_table_1(name, tmp_path):
    cfg = load(name)
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    saved = load_config(str(tmp_path / "config.yaml"))
    with torch.device("meta"):
        first, second = instantiate(cfg.model), instantiate(saved.model)
    assert not (tmp_path / "config.yaml.pkl").exists()
    shapes = {k: v.shape for k, v in first.state_dict().items()}
    assert shapes == {k: v.shape for k, v in second.state_dict().items()}
    count = sum(x.numel() for x in first.parameters())
    assert abs(count / 1e6 - MILLIONS[name]) <= 1


@pytest.mark.parametrize("name", MILLIONS)
def test_convnet_is_trained_by_the_recipe_of_detectron2(name):
    cfg = load(name)
    with torch.device("meta"):
        optimizer = build_optimizer(cfg.optimizer, instantiate(cfg.model))
    assert isinstance(optimizer, torch.optim.SGD)
    assert optimizer.defaults["lr"] == (0.01 if name.startswith("fcos") else 0.02)
    assert cfg.dataloader.train.total_batch_size == 16 and cfg.train.max_iter == 90_000
    factor = instantiate(cfg.lr_multiplier)
    assert factor(0) < 0.01 and factor(0.5) == 1.0
    assert factor(0.7) == pytest.approx(0.1) and factor(0.95) == pytest.approx(0.01)
    assert cfg.train.clip_grad.max_norm == math.inf
    assert cfg.model.pixel_std == [1.0, 1.0, 1.0]  # as the weights of MSRA have it
    for part in ("train", "test"):
        assert cfg.dataloader[part].mapper.image_format == "BGR"
        assert cfg.dataloader[part].dataset.num_classes == 80
    assert cfg.dataloader.evaluator.dataset_name == "coco_2017_val"
    assert cfg.train.output_dir == f"output/{name}"


@pytest.mark.parametrize("name", [x for x in MILLIONS if "rcnn" in x])
def test_classes_of_a_convnet_and_of_its_data_are_one_key(name):
    cfg = load(name)
    cfg.model.roi_heads.num_classes = 7
    with torch.device("meta"):
        model = instantiate(cfg.model)
    predictors = model.roi_heads.box_predictor
    predictors = predictors if isinstance(predictors, torch.nn.ModuleList) else [predictors]
    assert {x.cls_score.out_features for x in predictors} == {8}
    assert cfg.dataloader.train.dataset.num_classes == cfg.dataloader.test.dataset.num_classes == 7


@pytest.mark.parametrize("name", MILLIONS)
def test_convnet_takes_steps_with_the_same_losses_and_detects(name):
    model = small(name).train()
    found = []
    for counts in COUNTS.values():
        with EventStorage():
            losses = model(make_batch(SIZES, counts))
        sum(losses.values()).backward()
        assert all(x.isfinite() for x in losses.values())
        found.append(set(losses))
    assert found[0] == found[1]
    lacking = [x for x, y in model.named_parameters() if y.requires_grad and y.grad is None]
    assert lacking == []
    with torch.no_grad():
        detections = model.eval()(make_batch(SIZES[:1]))
    assert detections[0]["instances"].has("pred_boxes")


@pytest.mark.parametrize("name", ["faster_rcnn_r50_c4_12ep", "faster_rcnn_r50_fpn_12ep"])
def test_convnet_starts_from_the_file_of_a_backbone(name, tmp_path):
    source, model = resnet50(), small(name)
    # As the weights of MSRA: arrays, without the statistics of frozen norms.
    state = {k: v.numpy() for k, v in source.state_dict().items() if "running" not in k}
    path = tmp_path / "R-50.pkl"
    path.write_bytes(
        pickle.dumps({"model": state, "__author__": "us", "matching_heuristics": True})
    )
    InitialCheckpointer(model).load(str(path))
    filled = {key.split("backbone.bottom_up.")[-1]: x for key, x in model.state_dict().items()}
    filled = {
        key.removeprefix("backbone.").removeprefix("roi_heads."): filled[key] for key in filled
    }
    for key in state:
        if not key.startswith("linear."):
            assert_close(filled[key], source.state_dict()[key], rtol=0, atol=0)


def test_a_file_that_lacks_a_part_of_the_backbone_is_refused(tmp_path):
    state = {k: v for k, v in resnet50().state_dict().items() if not k.startswith("res5.2")}
    torch.save({"model": state, "matching_heuristics": True}, tmp_path / "R-50.pth")
    for name in ("faster_rcnn_r50_c4_12ep", "faster_rcnn_r50_fpn_12ep"):
        with pytest.raises(CheckpointError, match="missing: .*res5.2.conv1"):
            InitialCheckpointer(small(name)).load(str(tmp_path / "R-50.pth"))


def test_a_whole_convnet_is_loaded_strictly(tmp_path):
    source, model = (small("fcos_r50_fpn_12ep") for _ in range(2))
    state = source.state_dict()
    torch.save({"model": state}, tmp_path / "model.pth")
    Checkpointer(model).load(str(tmp_path / "model.pth"))
    for key, value in model.state_dict().items():
        assert_close(value, state[key], rtol=0, atol=0)
    del state["head.cls_score.weight"]
    torch.save({"model": state}, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match="1 missing: head.cls_score.weight"):
        Checkpointer(model).load(str(tmp_path / "model.pth"))
