"""Every config builds, survives YAML and trains; the recipes are those of section 5.1."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from detectron2.config import LazyCall as L
from detectron2.config import LazyConfig, instantiate
from detectron2.modeling import FPN
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.backbone.resnet import BasicStem, ResNet
from omegaconf import OmegaConf

from conftest import make_batch
from samdetr.engine import build_optimizer, load_config
from samdetr.engine.config import unread_keys
from samdetr.modeling.layers import meta_device

CONFIGS = Path(__file__).parents[1] / "configs"
COCO = sorted(x.stem for x in (CONFIGS / "coco").glob("*detr*.py"))  # test_convnets.py: others
MINI = sorted(x.stem for x in (CONFIGS / "mini").glob("*.py"))
ALL = [
    *(pytest.param(f"coco/{x}", marks=pytest.mark.slow) for x in COCO),
    *(f"mini/{x}" for x in MINI),
]
TWINS = "(conditional|deformable|smca)_detr_r50_dc5"  # of parts of other configs
FULL_SIZE = [  # one of each model; those of the ablations have twins in mini/ablations
    *(f"coco/{x}" for x in COCO if not re.search("dc5_(smca|dn)|50ep|108ep|500ep|" + TWINS, x)),
    *("coco/detr_softmax_r50_50ep", "coco/sam_detr_r50_50ep", "coco/dab_detr_r50_dc5_3pat_50ep"),
    *("lvis/sam_detr_pp_r50_smca_dn_12ep", "voc/sam_detr_pp_r50_smca_random_boxes_50ep"),
]
SHALLOW = {"backbone.depths": [1, 1, 2, 1], "backbone.net.depth": 2}  # of transformers
TRAIN_IMAGES = 118_287  # of COCO train2017
SIZES = ((64, 48), (40, 56), (32, 72))
COUNTS = {"empty": (0, 0, 0), "full": (4, 0, 30)}


def load(name: str):
    return load_config(str(CONFIGS / f"{name}.py"))


@pytest.mark.usefixtures("shapes_only")
@pytest.mark.parametrize("name", ALL)
def test_config_survives_a_yaml_round_trip_and_builds(name, tmp_path):
    cfg = load(name)
    assert not unread_keys(cfg)
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    saved = load_config(str(tmp_path / "config.yaml"))

    with meta_device():
        assert instantiate(saved.model).num_classes == cfg.model.num_classes

    assert not (tmp_path / "config.yaml.pkl").exists()  # what Detectron2 falls back to
    LazyConfig.save(saved, str(tmp_path / "again.yaml"))
    assert (tmp_path / "again.yaml").read_text() == (tmp_path / "config.yaml").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", COCO)
def test_recipe_is_that_of_section_5_1_or_of_the_peer(name):
    cfg = load(f"coco/{name}")
    epochs = int(re.search(r"(\d+)ep$", name)[1])
    batch = 8 if "dc5" in name else 16

    assert cfg.dataloader.train.total_batch_size == batch
    assert cfg.train.max_iter == math.ceil(epochs * TRAIN_IMAGES / batch)
    assert cfg.train.eval_period == math.ceil(TRAIN_IMAGES / batch)
    factor = instantiate(cfg.lr_multiplier)
    decay = {12: 10, 50: 40, 108: 80, 500: 400}[epochs] / epochs
    assert factor(0) == factor(decay - 1e-5) == 1.0
    assert factor(decay + 1e-5) == factor(1.0) == pytest.approx(0.1)
    assert cfg.train.clip_grad.max_norm == 0.1
    as_published = re.search(r"(conditional|deformable)_\w+_(50|108)ep|500ep", name)
    assert cfg.model.encoder.layer.dropout == (0.1 if as_published else 0.0)  # section 4.4
    special = {"softmax": 100, "500ep": 100, "3pat": 900}
    queries = [count for part, count in special.items() if part in name] or [300]
    assert cfg.model.num_classes == 80 and [cfg.model.num_queries] == queries
    assert cfg.train.output_dir == f"output/{name}"


@pytest.mark.usefixtures("shapes_only")
def test_learning_rate_is_a_tenth_in_the_backbone_and_decay_is_everywhere():
    cfg = load("coco/sam_detr_r50_smca_12ep")
    with meta_device():
        model = instantiate(cfg.model)
    names = {id(x): name for name, x in model.named_parameters()}

    groups = build_optimizer(cfg.optimizer, model).param_groups

    rates = {names[id(x)]: group["lr"] for group in groups for x in group["params"]}
    assert set(rates) == {name for name, x in model.named_parameters() if x.requires_grad}
    for name, rate in rates.items():
        assert rate == pytest.approx(1e-5 if name.startswith("backbone.") else 1e-4), name
    assert {group["weight_decay"] for group in groups} == {1e-4}


@pytest.mark.slow
@pytest.mark.parametrize("kind", COUNTS)
@pytest.mark.parametrize("name", MINI)
def test_training_step_gives_every_parameter_a_finite_gradient(name, kind):
    model = instantiate(load(f"mini/{name}").model).train()

    losses = model(make_batch(SIZES, COUNTS[kind]))
    sum(losses.values()).backward()

    suffixes = ["_0", "_1", ""]
    names = {f"loss_{x}{y}" for x in ("ce", "bbox", "giou") for y in suffixes}
    denoised = {f"{x}_dn" for x in names if "denoising.labels.weight" in model.state_dict()}
    assert set(losses) == names | denoised
    for parameter, x in model.named_parameters():
        assert x.grad is not None and x.grad.isfinite().all(), parameter


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL_SIZE)
def test_full_size_config_takes_a_step_at_reduced_size(name):
    model = load(name).model
    model.neck.dim, model.num_queries = 64, 12
    model.encoder.layer.hidden_dim = model.decoder.layer.hidden_dim = 64
    model.encoder.num_layers = 1
    for key, value in SHALLOW.items():
        if OmegaConf.select(model, key) is not None:
            OmegaConf.update(model, key, value)
    if "levels" in model.decoder:
        model.decoder.levels = [*model.decoder.levels][::2]
    else:
        model.decoder.num_layers = 3
    model = instantiate(model).train()

    losses = model(make_batch(SIZES, COUNTS["full"]))
    sum(losses.values()).backward()

    assert all(x.isfinite() for x in losses.values())
    for parameter, x in model.named_parameters():
        if x.requires_grad:
            assert x.grad is not None and x.grad.isfinite().all(), parameter


@pytest.mark.parametrize("name", ["sam_detr_smca", "detr"])
def test_other_backbones_slot_in_by_config(name):
    cfg = load(f"mini/{name}")
    cfg.model.backbone = L(FPN)(
        bottom_up=L(ResNet)(
            stem=L(BasicStem)(in_channels=3, out_channels=64, norm="FrozenBN"),
            stages=L(ResNet.make_default_stages)(depth=18, norm="FrozenBN"),
            out_features=["res4", "res5"],
        ),
        in_features=["res4", "res5"],
        out_channels=64,
        top_block=L(LastLevelMaxPool)(),
    )
    cfg.model.neck.in_channels = dict(p4=64)

    losses = instantiate(cfg.model).train()(make_batch(SIZES, COUNTS["full"]))

    assert all(x.isfinite() for x in losses.values())
