"""The ConvNets of tables 1 and 2: Detectron2's models through our training and data."""

import pickle
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.modeling.backbone.resnet import BasicStem, ResNet
from detectron2.utils.events import EventStorage
from torch.testing import assert_close

from conftest import make_batch
from samdetr.checkpoint import InitialCheckpointer
from samdetr.engine import load_config

pytestmark = pytest.mark.slow

COCO = Path(__file__).parents[1] / "configs" / "coco"
MILLIONS = {  # of parameters, in tables 1 and 2
    "faster_rcnn_r50_c4_12ep": 34,
    "faster_rcnn_r50_dc5_12ep": 166,
    "faster_rcnn_r50_fpn_12ep": 42,
    "cascade_rcnn_r50_fpn_12ep": 69,
    "fcos_r50_fpn_12ep": 32,
    "faster_rcnn_r50_fpn_108ep": 42,
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


@pytest.mark.usefixtures("shapes_only")
@pytest.mark.parametrize("name", MILLIONS)
def test_convnet_survives_a_yaml_round_trip_and_has_the_parameters_of_the_paper(name, tmp_path):
    LazyConfig.save(load(name), str(tmp_path / "config.yaml"))
    saved = load_config(str(tmp_path / "config.yaml"))
    with torch.device("meta"):
        count = sum(x.numel() for x in instantiate(saved.model).parameters())
    assert not (tmp_path / "config.yaml.pkl").exists()
    assert abs(count / 1e6 - MILLIONS[name]) <= 1


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
