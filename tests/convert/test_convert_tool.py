"""tools/convert_checkpoint.py from its command line: what it makes, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyConfig, instantiate
from detectron2.modeling.backbone.resnet import BasicStem, ResNet
from torch import nn
from torchvision.models import resnet18, resnet34, resnet50

from conftest import make_model
from conversion import ROOT, assert_same, detr_style_file, small_official, tool
from original_detr import make_original
from samdetr import convert
from samdetr.checkpoint import Checkpointer
from samdetr.convert import describe, read_checkpoint, recognise, save_model
from samdetr.convert.sources import SOURCES

pytestmark = pytest.mark.slow

CONFIGS = ROOT / "configs"
SMALL = "width 64, levels 1, encoder 1, decoder 3, queries 12, classes 5, norm in the neck"
FULL = "width 256, levels {}, encoder 6, decoder 6, queries 300, classes 80"
DESCRIPTIONS = {  # by config
    "sam_detr_r50_smca_50ep": f"SAM-DETR w/ SMCA (ResNet-50, {FULL.format(1)})",
    "sam_detr_pp_r50_smca_dn_12ep": "SAM-DETR++ w/ SMCA with denoising queries "
    f"(ResNet-50, {FULL.format(3)}, norm in the neck)",
    "smca_detr_r50_12ep": f"SMCA-DETR (ResNet-50, {FULL.format(1)})",
    "faster_rcnn_r50_fpn_12ep": "a detector of Detectron2 (ResNet-50)",
}


@pytest.fixture
def run(capsys):
    """Calls the tool; what it prints."""

    def run(*arguments):
        tool().main([str(x) for x in arguments])
        return capsys.readouterr().out

    return run


@pytest.fixture
def complain(capsys):
    """Calls the tool, which refuses in one line."""

    def complain(*arguments):
        with pytest.raises(SystemExit) as stop:
            tool().main([str(x) for x in arguments])
        assert stop.value.code == 2
        output = capsys.readouterr()
        assert output.out == ""
        return output.err

    return complain


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """A file of the official code with all that its training writes, its weights, our model."""
    weights, model = small_official("sam_detr_smca")
    path = tmp_path_factory.mktemp("official") / "checkpoint.pth"
    return detr_style_file(path, weights, dilation=True), weights, model


@pytest.mark.parametrize("source", ["official", "auto"])
def test_an_official_file_goes_through_every_format_and_back(source, example, tmp_path, run):
    path, weights, model = example
    steps = [tmp_path / x for x in ("a.pth", "b.safetensors", "c.pkl", "d.pth", "official.pth")]
    printed = run(source, path, steps[0])
    run("ours", steps[0], steps[1])
    run("ours", steps[1], steps[2])
    run("auto", "--trusted", steps[2], steps[3])
    run("to-official", steps[3], steps[4])

    assert printed == f"{steps[0]}: {len(model.state_dict())} tensors, SAM-DETR w/ SMCA ({SMALL})\n"
    for step in steps[:4]:
        assert_same(read_checkpoint(step, trusted=True).weights, model.state_dict())
    assert_same(read_checkpoint(steps[4]).weights, weights)
    _, other = small_official("sam_detr_smca")
    Checkpointer(other).load(str(steps[2]))  # raises unless all of it fits
    assert_same(other.state_dict(), model.state_dict())


def test_a_file_is_said_to_be_what_it_is(example, run):
    path, *_ = example
    assert run("detect", path) == (
        f"official: an official SAM-DETR; SAM-DETR w/ SMCA ({SMALL}); trained with dilation (DC5)\n"
    )


def test_options_of_the_output_are_followed(example, tmp_path, run):
    path, _, model = example
    run("official", path, tmp_path / "out", "--format=pth", "--half", "--author", "me")
    content = torch.load(tmp_path / "out")
    assert content["__author__"] == "me" and "matching_heuristics" not in content
    assert_same(content["model"], {k: v.half() for k, v in model.state_dict().items()})
    run("ours", tmp_path / "out", tmp_path / "out.pth", "--matching-heuristics")
    assert torch.load(tmp_path / "out.pth")["matching_heuristics"] is True


def test_rows_of_the_official_classes_go_and_come(example, tmp_path, run):
    _, weights, _ = example
    wide = {k: torch.randn(91, *v.shape[1:]) for k, v in weights.items() if "class_embed" in k}
    torch.save({**weights, **wide}, tmp_path / "wide.pth")
    run("official", tmp_path / "wide.pth", tmp_path / "ours.pth", "--coco80")
    run("to-official", tmp_path / "ours.pth", tmp_path / "back.pth", "--coco91")

    ours, back = (read_checkpoint(tmp_path / x).weights for x in ("ours.pth", "back.pth"))
    rows = convert.coco_class_rows(91)
    assert torch.equal(ours["decoder.heads.1.classes.bias"], wide["class_embed.1.bias"][rows])
    for name in wide:
        assert torch.equal(back[name][rows], wide[name][rows])
    assert_same({k: v for k, v in back.items() if k not in wide}, without(weights, wide))


def without(state, names):
    return {k: v for k, v in state.items() if k not in names}


@pytest.mark.parametrize("suffix", [".pth", ".pkl"])
def test_a_torchvision_backbone_is_found_by_a_stock_checkpointer(suffix, tmp_path, run):
    twin, output = resnet18(), tmp_path / f"R-18{suffix}"
    torch.save(twin.state_dict(), tmp_path / "resnet18.pth")
    printed = run("auto", tmp_path / "resnet18.pth", output)

    assert printed == f"{output}: 102 tensors, a backbone (ResNet-18)\n"
    model = nn.Module()
    stages = ResNet.make_default_stages(18, norm="FrozenBN")
    model.backbone = ResNet(BasicStem(norm="FrozenBN"), stages, out_features=["res5"])
    extras = DetectionCheckpointer(model).load(str(output))
    assert extras["__author__"] == "torchvision"
    wanted = convert.torchvision_to_detectron2(twin.state_dict())
    wanted = {f"backbone.{k}": v for k, v in wanted.items() if not k.startswith("linear.")}
    assert_same(model.state_dict(), wanted)


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_models_are_described_by_their_weights_alone(name):
    config = LazyConfig.load(str(CONFIGS / "coco" / f"{name}.py")).model
    with torch.device("meta"):
        state = instantiate(config).state_dict()
    assert describe(state) == DESCRIPTIONS[name]
    assert recognise(state) == "ours"


@pytest.mark.parametrize(("make", "name"), [(resnet34, "ResNet-34"), (resnet50, "ResNet-50")])
def test_the_depth_of_a_backbone_is_told(make, name):
    with torch.device("meta"):
        state = convert.torchvision_to_detectron2(make().state_dict())
    assert describe(state) == f"a backbone ({name})"


def published(name, **settings):
    """Weights of a tiny model of the package transformers, under its present names."""
    transformers = pytest.importorskip("transformers")
    backbone = transformers.ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 8, 8, 8],
        depths=[1, 1, 1, 1],
        out_features=[f"stage{i}" for i in ((2, 3, 4) if "Deformable" in name else (4,))],
    )
    small = dict(encoder_layers=1, decoder_layers=2, num_queries=5, backbone_config=backbone)
    config = getattr(transformers, f"{name}Config")(**small, **settings)
    return getattr(transformers, f"{name}ForObjectDetection")(config)


@pytest.mark.parametrize(
    ("source", "name", "settings", "what"),
    [
        ("hf-detr", "Detr", {"d_model": 32}, "DETR with a softmax head"),
        ("hf-conditional", "ConditionalDetr", {"d_model": 32}, "Conditional DETR"),
        ("hf-dab", "DabDetr", {"hidden_size": 32}, "DAB-DETR"),
        ("hf-deformable", "DeformableDetr", {"d_model": 32}, "Deformable DETR"),
    ],
)
def test_models_of_transformers_are_told_apart_under_old_and_new_names(
    source, name, settings, what, tmp_path, run
):
    model = published(name, **settings)
    model.save_pretrained(tmp_path)  # under the names of published files
    assert recognise(model.state_dict()) == source
    printed = run("detect", tmp_path)
    assert printed.startswith(f"{source}: {SOURCES[source].what}; {what} (width 32, ")
    assert "encoder 1, decoder 2, queries 5" in printed


def test_another_kind_than_asked_for_is_named_with_what_converts_it(example, tmp_path, complain):
    path, weights, model = example
    torch.save(make_original().state_dict(), tmp_path / "detr.pth")
    save_model(model.state_dict(), tmp_path / "ours.pth")
    wrong = {
        ("official", tmp_path / "detr.pth"): "it is an original DETR, and an official SAM-DETR was "
        "asked for: 'detr' converts it",
        ("detr", path): "it is an official SAM-DETR, and an original DETR was asked for",
        ("half", path): "it is an official SAM-DETR, and one of ours was asked for",
        ("official", tmp_path / "ours.pth"): "it is one of ours, and an official SAM-DETR was",
        ("to-official", path): "it is an official SAM-DETR, and one of ours was asked for",
    }
    for (source, file), words in wrong.items():
        complaint = complain(source, file, tmp_path / "out.pth")
        assert complaint.count("\n") == 1 and f"{file}: {words}" in complaint
    assert not (tmp_path / "out.pth").exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("transformer.decoder.layers.0.cross_attn.sampling_offsets.weight", "a Deformable DETR of"),
        ("transformer.decoder.layers.0.ca_qcontent_proj.weight", "a Conditional DETR of its"),
        ("model.pos_trans.weight", "a two-stage Deformable DETR of transformers"),
        ("conv1_w", "a Caffe2 model"),
        ("classifier.weight", "nothing that is known here: its weights are classifier.weight"),
    ],
)
def test_weights_that_nothing_converts_are_named_as_far_as_they_are_known(
    name, words, tmp_path, complain
):
    torch.save({name: torch.zeros(1)}, tmp_path / "file.pth")
    assert f"it is {words}" in complain("auto", tmp_path / "file.pth", tmp_path / "out.pth")
    assert words in complain("detect", tmp_path / "file.pth")


def test_weights_of_another_variant_than_the_configs_are_refused(tmp_path, run, complain):
    state = make_mini("sam_detr")
    save_model(state, tmp_path / "mini.pth")
    fitting, other = (CONFIGS / "mini" / f"sam_detr{x}.py" for x in ("", "_smca"))
    output = tmp_path / "out.pth"

    complaint = complain("ours", tmp_path / "mini.pth", output, "--config-file", other)
    assert "mini.pth is SAM-DETR (" in complaint and "is SAM-DETR w/ SMCA (" in complaint
    assert "6 missing: decoder.layers.0.cross_attention.prior.scale.weight" in complaint
    assert not output.exists()
    run("ours", tmp_path / "mini.pth", output, "--config-file", fitting)
    assert_same(read_checkpoint(output).weights, state)


def make_mini(name):
    config = LazyConfig.load(str(CONFIGS / "mini" / f"{name}.py")).model
    return instantiate(config).state_dict()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["official", "nowhere.pth", "out.pth"], "No such file: "),
        (["official", "broken.pth", "out.pth"], "broken.pth cannot be read: "),
        (["auto", "zoo.pkl", "out.pth"], "zoo.pkl is a pickle"),
        (["auto", "folder", "out.pth"], "folder has no model.safetensors or pytorch_model.bin"),
        (["hf-detr", "folder", "out.pth"], "config.json cannot be read as the configuration"),
        (["auto", "broken.pth", "out.bin"], "out.bin must end in .pth, .pkl, .safetensors"),
        (["auto", "broken.pth", "no/out.pth"], "no is not a folder"),
        (["auto", "broken.pth", "folder", "--format=pth"], "folder cannot be written: it is a fol"),
        (["ours", "mini.pth", "out.pth", "--config-file=no.py"], "'no.py' is not a file"),
        (["ours", "mini.pth", "out.pth", "--coco80"], "each COCO id up to 90, got 5 rows"),
        (["to-official", "mini.pth", "out.pth", "--coco91"], "has 5 rows, expected one for each"),
        (["to-official", "detr.pth", "out.pth"], "not a SAM-DETR: queries.reference.weight"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    arguments, words, tmp_path, monkeypatch, complain
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "config.json").write_text("[")
    (tmp_path / "broken.pth").write_bytes(b"no checkpoint")
    save_model({"backbone.x": torch.zeros(1)}, "zoo.pkl")
    save_model(make_model("sam_detr").state_dict(), "mini.pth")
    save_model(make_model("detr").state_dict(), "detr.pth")
    before = sorted(tmp_path.rglob("*"))

    complaint = complain(*arguments)

    assert words in complaint and complaint.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_the_help_says_why_a_pickle_has_to_be_trusted(capsys):
    with pytest.raises(SystemExit) as stop:
        tool().main(["auto", "--help"])
    assert stop.value.code == 0
    assert "a pickle is a program" in " ".join(capsys.readouterr().out.split())
