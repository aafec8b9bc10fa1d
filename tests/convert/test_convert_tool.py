"""tools/convert_checkpoint.py: files in every format, recognition, and refusals."""

from __future__ import annotations

import argparse
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import instantiate
from detectron2.modeling.backbone.resnet import BasicStem, ResNet
from torch import nn
from torchvision.models import resnet18

import convert_checkpoint
from conftest import make_model
from conversion import assert_same, small_official
from samdetr import convert, model_zoo
from samdetr.checkpoint import Checkpointer, load_file
from samdetr.convert import ConversionError, describe, recognise, save_model
from samdetr.convert.files import SOURCES

SMALL = "width 64, levels 1, encoder 1, decoder 3, queries 12, classes 5, norm in the neck"
FULL = "width 256, levels {}, encoder 6, decoder 6, queries 300, classes 80"
DESCRIPTIONS = {
    "coco/sam_detr_r50_smca_50ep": f"SAM-DETR w/ SMCA (ResNet-50, {FULL.format(1)})",
    "coco/sam_detr_pp_r50_smca_dn_12ep": "SAM-DETR++ w/ SMCA with denoising queries "
    f"(ResNet-50, {FULL.format(3)}, norm in the neck)",
    "coco/smca_detr_r50_12ep": f"SMCA-DETR (ResNet-50, {FULL.format(1)})",
    "coco/faster_rcnn_r50_fpn_12ep": "a detector of Detectron2 (ResNet-50)",
}
STOCK = """
import pickle, sys
sys.modules["samdetr"] = None  # importing it fails
import torch
from detectron2.checkpoint import DetectionCheckpointer

model = torch.nn.ModuleDict({"a": torch.nn.Linear(3, 2), "b": torch.nn.BatchNorm2d(4)})
extras = DetectionCheckpointer(model).load("file.pkl")
wanted = torch.load("wanted.pth")
assert all(torch.equal(x, wanted[name]) for name, x in model.state_dict().items())
print(*sorted(extras), extras["__author__"])
"""


@pytest.fixture
def run(capsys):
    """Call the tool; returns its output."""

    def run(*arguments):
        convert_checkpoint.main([str(x) for x in arguments])
        return capsys.readouterr().out

    return run


@pytest.fixture
def complain(capsys):
    """Call the tool, which must refuse in one line; returns that line."""

    def complain(*arguments):
        with pytest.raises(SystemExit) as stop:
            convert_checkpoint.main([str(x) for x in arguments])
        output = capsys.readouterr()
        assert stop.value.code == 2 and output.out == "" and output.err.count("\n") == 1
        return output.err

    return complain


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """A checkpoint of the official code's training, its weights, and our model."""
    weights, model = small_official("sam_detr_smca")
    path = tmp_path_factory.mktemp("official") / "checkpoint.pth"
    optimizer = torch.optim.AdamW([nn.Parameter(torch.ones(2))]).state_dict()
    arguments = argparse.Namespace(lr=1e-4, dilation=True)
    torch.save({"model": weights, "optimizer": optimizer, "args": arguments}, path)
    return path, weights, model


def make_weights():
    """Tensors of several kinds, some of which share memory."""
    whole = torch.randn(6, 3)
    return {
        "backbone.stem.conv1.weight": torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last),
        "head.low": whole[:2],
        "head.again": whole[:2],
        "head.across": whole.t(),
        "head.count": torch.tensor(3),
        "head.halves": torch.randn(2).half(),
        "head.nothing": torch.zeros(0, 4),
    }


@pytest.mark.parametrize("file_format", ["pth", "pkl", "safetensors"])
def test_every_format_gives_the_same_weights_back(file_format, tmp_path):
    path = tmp_path / f"file.{file_format}"
    weights = {**make_weights(), "x": torch.randn(5).bfloat16()}
    save_model(weights, path, matching_heuristics=True)
    found = load_file(path)
    if file_format == "pkl":  # NumPy has no bfloat16
        weights["x"] = weights["x"].float()
    assert_same(found["model"], weights)
    assert found["matching_heuristics"] is True


@pytest.mark.slow
def test_a_stock_checkpointer_reads_a_zoo_file_where_this_package_cannot_be_imported(tmp_path):
    model = nn.ModuleDict({"a": nn.Linear(3, 2), "b": nn.BatchNorm2d(4)})
    save_model(model.state_dict(), tmp_path / "file.pkl", author="me")
    torch.save(model.state_dict(), tmp_path / "wanted.pth")
    command = [sys.executable, "-c", STOCK]
    finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout == "__author__ me\n"
    content = pickle.loads((tmp_path / "file.pkl").read_bytes())
    assert all(type(x) is np.ndarray for x in content["model"].values())


def test_a_failure_on_the_way_leaves_the_folder_as_it_was(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    path = tmp_path / "file.pkl"
    path.write_bytes(b"previous")
    monkeypatch.setattr(pickle, "dump", full)
    with pytest.raises(OSError, match="No space"):
        save_model(make_weights(), path)
    with pytest.raises(ConversionError, match=r"must end in \.pth, \.pkl, \.safetensors"):
        save_model(make_weights(), tmp_path / "file.pt")
    assert [(x, x.read_bytes()) for x in tmp_path.iterdir()] == [(path, b"previous")]


def test_an_official_file_goes_through_every_format_and_back(example, tmp_path, run):
    path, weights, model = example
    steps = [tmp_path / x for x in ("a.pth", "b.safetensors", "c.pkl", "d.pth", "official.pth")]
    printed = run("official", path, steps[0])
    run("ours", steps[0], steps[1])
    run("ours", steps[1], steps[2])
    run("auto", "--trusted", steps[2], steps[3])
    run("to-official", steps[3], steps[4])

    assert printed == f"{steps[0]}: {len(model.state_dict())} tensors, SAM-DETR w/ SMCA ({SMALL})\n"
    for step in steps[:4]:
        assert_same(load_file(step)["model"], model.state_dict())
    assert_same(load_file(steps[4])["model"], weights)
    _, other = small_official("sam_detr_smca")
    Checkpointer(other).load(str(steps[2]))  # strict
    assert_same(other.state_dict(), model.state_dict())


def test_a_file_is_described(example, run):
    assert run("detect", example[0]) == (
        f"official: an official SAM-DETR; SAM-DETR w/ SMCA ({SMALL}); trained with dilation (DC5)\n"
    )


def test_options_of_the_output_are_followed(example, tmp_path, run):
    path, _, model = example
    run("auto", path, tmp_path / "out", "--format=pth", "--half", "--author", "me")
    content = torch.load(tmp_path / "out")
    assert content["__author__"] == "me" and "matching_heuristics" not in content
    assert_same(content["model"], {k: v.half() for k, v in model.state_dict().items()})
    run("ours", tmp_path / "out", tmp_path / "out.pth", "--matching-heuristics")
    assert torch.load(tmp_path / "out.pth")["matching_heuristics"] is True


def test_class_rows_of_cocos_ids_are_selected_and_spread(example, tmp_path, run):
    _, weights, _ = example
    wide = {k: torch.randn(91, *v.shape[1:]) for k, v in weights.items() if "class_embed" in k}
    torch.save({**weights, **wide}, tmp_path / "wide.pth")
    run("official", tmp_path / "wide.pth", tmp_path / "ours.pth", "--coco80")
    run("to-official", tmp_path / "ours.pth", tmp_path / "back.pth", "--coco91")

    ours, back = (load_file(tmp_path / x)["model"] for x in ("ours.pth", "back.pth"))
    rows = convert.coco_class_rows(91)
    assert torch.equal(ours["decoder.heads.1.classes.bias"], wide["class_embed.1.bias"][rows])
    assert_same({k: back[k][rows] for k in wide}, {k: x[rows] for k, x in wide.items()})
    others = weights.keys() - wide.keys()
    assert_same({k: back[k] for k in others}, {k: weights[k] for k in others})


@pytest.mark.parametrize("suffix", [".pth", ".pkl"])
def test_a_torchvision_backbone_is_found_by_a_stock_checkpointer(suffix, tmp_path, run):
    twin, output = resnet18(), tmp_path / f"R-18{suffix}"
    torch.save(twin.state_dict(), tmp_path / "resnet18.pth")
    printed = run("auto", tmp_path / "resnet18.pth", output)

    assert printed == f"{output}: 102 tensors, a backbone (ResNet-18)\n"
    stages = ResNet.make_default_stages(18, norm="FrozenBN")
    backbone = ResNet(BasicStem(norm="FrozenBN"), stages, out_features=["res5"])
    extras = DetectionCheckpointer(nn.ModuleDict({"backbone": backbone})).load(str(output))
    assert extras["__author__"] == "torchvision"
    wanted = convert.torchvision_to_detectron2(twin.state_dict())
    assert_same(
        backbone.state_dict(), {k: v for k, v in wanted.items() if not k.startswith("linear.")}
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_models_are_described_by_their_weights_alone(name):
    with torch.device("meta"):
        state = instantiate(model_zoo.get_config(name).model).state_dict()
    assert describe(state) == DESCRIPTIONS[name]
    assert recognise(state) == "ours"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "name", "dim", "what"),
    [
        ("hf-detr", "Detr", "d_model", "DETR with a softmax head"),
        ("hf-conditional", "ConditionalDetr", "d_model", "Conditional DETR"),
        ("hf-dab", "DabDetr", "hidden_size", "DAB-DETR"),
        ("hf-deformable", "DeformableDetr", "d_model", "Deformable DETR"),
    ],
)
def test_models_of_transformers_are_recognised_under_old_and_new_names(
    source, name, dim, what, tmp_path, run
):
    transformers = pytest.importorskip("transformers")
    backbone = transformers.ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 8, 8, 8],
        depths=[1, 1, 1, 1],
        out_features=[f"stage{i}" for i in ((2, 3, 4) if "Deformable" in name else (4,))],
    )
    sizes = {dim: 32, "encoder_layers": 1, "decoder_layers": 2, "num_queries": 5}
    config = getattr(transformers, f"{name}Config")(backbone_config=backbone, **sizes)
    model = getattr(transformers, f"{name}ForObjectDetection")(config)
    model.save_pretrained(tmp_path)  # under the names of published files
    assert recognise(model.state_dict()) == source
    printed = run("detect", tmp_path)
    assert printed.startswith(f"{source}: {SOURCES[source].what}; {what} (width 32, ")
    assert "encoder 1, decoder 2, queries 5" in printed


@pytest.mark.slow
def test_weights_of_another_variant_than_the_configs_are_refused(tmp_path, run, complain):
    state = instantiate(model_zoo.get_config("mini/sam_detr").model).state_dict()
    save_model(state, tmp_path / "mini.pth")
    fitting, other = (model_zoo.get_config_file(f"mini/sam_detr{x}") for x in ("", "_smca"))
    output = tmp_path / "out.pth"

    complaint = complain("ours", tmp_path / "mini.pth", output, "--config-file", other)
    assert "it is SAM-DETR (" in complaint and "is SAM-DETR w/ SMCA (" in complaint
    assert "6 missing: decoder.layers.0.cross_attention.prior.scale.weight" in complaint
    assert not output.exists()
    run("ours", tmp_path / "mini.pth", output, "--config-file", fitting)
    assert_same(load_file(output)["model"], state)


def test_user_errors_are_one_line_and_leave_nothing(tmp_path, monkeypatch, complain):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "broken.pth").write_bytes(b"no checkpoint")
    save_model(make_model("sam_detr").state_dict(), "mini.pth")
    save_model(make_model("detr").state_dict(), "detr.pth")
    before = sorted(tmp_path.rglob("*"))
    for arguments, words in (
        (["official", "nowhere.pth", "out.pth"], "nowhere.pth is not a file"),
        (["official", "broken.pth", "out.pth"], "broken.pth cannot be read"),
        (["auto", "folder", "out.pth"], "folder has no model.safetensors or pytorch_model.bin"),
        (["auto", "mini.pth", "out.bin"], "out.bin must end in .pth, .pkl, .safetensors"),
        (["auto", "mini.pth", "no/out.pth"], "No such file or directory"),
        (["ours", "mini.pth", "out.pth", "--config-file=no.py"], "no.py"),
        (["ours", "mini.pth", "out.pth", "--coco80"], "each COCO id up to 90, got 5 rows"),
        (["to-official", "mini.pth", "out.pth", "--coco91"], "has 5 rows, expected one for each"),
        (["to-official", "detr.pth", "out.pth"], "not a SAM-DETR: queries.reference.weight"),
    ):
        assert words in complain(*arguments)
    assert sorted(tmp_path.rglob("*")) == before
