"""Fine-tuning: another number of classes starts the class head anew, and a small set is learnt."""

import json
import re
import shlex
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyCall as L

from command_line import train_net
from conftest import make_model
from samdetr.checkpoint import Checkpointer, CheckpointError, InitialCheckpointer
from samdetr.data import SceneParameters, write_mini
from samdetr.modeling import Denoising

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CLASSES = {"low": range(4), "middle": range(4, 7), "high": range(7, 10)}  # of digits


def make(variant, num_classes, **overrides):
    if variant.endswith("_dn"):
        overrides["denoising"] = L(Denoising)(num_classes=num_classes, dim=64)
    return make_model(variant.removesuffix("_dn"), num_classes=num_classes, **overrides)


def saved(folder, model):
    torch.save({"model": model.state_dict()}, folder / "file.pth")
    return str(folder / "file.pth")


def load_initial(model, path):
    checkpointer = InitialCheckpointer(model)
    checkpointer.logger.propagate = True  # Detectron2's set-up stops it
    checkpointer.load(path)


@pytest.mark.parametrize("variant", ["sam_detr", "sam_detr_smca_dn", "detr"])
def test_other_classes_start_the_class_head_anew_and_keep_the_rest(tmp_path, variant, caplog):
    source, model = make(variant, 10), make(variant, 3)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with caplog.at_level("INFO"):
        load_initial(model, saved(tmp_path, source))

    of_classes = [x for x in before if ".classes." in x or x == "denoising.labels.weight"]
    assert len(of_classes) == {"sam_detr": 6, "sam_detr_smca_dn": 7, "detr": 2}[variant]
    for key, value in model.state_dict().items():
        expected = before if key in of_classes else source.state_dict()
        torch.testing.assert_close(value, expected[key], rtol=0, atol=0, msg=key)
    assert "has 10 classes and the model has 3" in caplog.text


def test_evaluation_takes_no_file_of_other_classes(tmp_path):
    path = saved(tmp_path, make("sam_detr", 10))
    message = "it has 10 classes and the model has model.num_classes=3"
    with pytest.raises(CheckpointError, match=message):
        Checkpointer(make("sam_detr", 3)).load(path)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"decoder__levels": [0] * 2}, "not in the model: decoder.layers.2"),
    ],
)
def test_other_differences_are_errors_beside_the_number_of_classes(tmp_path, overrides, message):
    path = saved(tmp_path, make("sam_detr", 10, num_queries=10))
    with pytest.raises(CheckpointError, match=message):
        load_initial(make("sam_detr", 3, **{"num_queries": 10, **overrides}), path)


def write_three_classes(folder, counts):
    """Digits in a folder, in COCO's format, by three names whose ids have gaps."""
    write_mini(folder, SceneParameters(seed=1), counts)
    ids = dict(zip(CLASSES, (20, 5, 11)))
    for split in counts:
        file = folder / f"{split}.json"
        contents = json.loads(file.read_text())
        contents["categories"] = [{"id": i, "name": name} for name, i in ids.items()]
        for annotation in contents["annotations"]:
            digit = annotation["category_id"] - 1
            (annotation["category_id"],) = (ids[x] for x in CLASSES if digit in CLASSES[x])
        file.write_text(json.dumps(contents))


def documented_commands():
    """Those of docs/own_data.md, in order."""
    text = (ROOT / "docs/own_data.md").read_text().replace("\\\n", " ")
    return [shlex.split(x) for x in re.findall(r"^    python (train_net.py .*)$", text, re.M)]


def test_the_documented_commands_learn_three_classes_within_100_steps(
    tmp_path, monkeypatch, capsys
):
    for name in ("configs", "projects", "train_net.py"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    write_three_classes(tmp_path / "mydata", {"train": 200, "val": 30})
    training, resuming, evaluation = documented_commands()
    assert "train.max_iter=100" in training  # of which sixty are enough

    assert train_net(*training[1:], "train.max_iter=60") == 0
    capsys.readouterr()
    assert train_net(*evaluation[1:]) == 0
    evaluated = capsys.readouterr().out

    metrics = [json.loads(x) for x in Path("output/mydata/metrics.json").read_text().splitlines()]
    after = metrics[-1]["bbox/AP"]
    assert metrics[-1]["iteration"] == 60
    assert after > 20  # the class head started anew, at 0
    assert f"{after:.4f}," in evaluated  # by the saved config alone
    assert re.search(r"\| category +\| AP +\|.*\| middle +\| \d", evaluated, re.S)
    results = json.loads(Path("output/mydata/inference/coco_instances_results.json").read_text())
    assert {x["category_id"] for x in results} == {20, 5, 11}
    assert "--resume" in resuming
