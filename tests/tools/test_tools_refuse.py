"""What no tool can work with is one sentence on stderr and exit code 2, before anything is done."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig

from command_line import ROOT, run_script
from samdetr import model_zoo

MINI = str(ROOT / "configs/mini/sam_detr_smca.py")
CONFIG = ["--config-file", MINI]
ONNX = importlib.util.find_spec("onnxruntime") is not None

# Arguments, and what the sentence says. IN is the folder of `inputs`, TEXT a file of it, under
# which nothing can be written.
CASES: dict[str, list[tuple[list[str], str]]] = {
    "demo.py": [
        (["--input", "IN/nowhere.jpg"], "there is no file or folder IN/nowhere.jpg"),
        (["--input", "IN/text.mp4"], "OpenCV reads no video in IN/text.mp4"),
        (["--input", "IN/empty"], "no file in folder IN/empty ends with .jpg"),
        (["--config-file", "mini/nothing"], "mini/nothing is not a file, and config"),
        (["--config-file", "IN/text.yaml", "--checkpoint", "IN/foreign.pth"], "IN/text.yaml"),
        (["--checkpoint", "IN/nowhere.pth"], "IN/nowhere.pth is not a file"),
        (["--checkpoint", "IN/foreign.pth"], "IN/foreign.pth does not fit the model"),
        (["--checkpoint", "IN/text.pth"], "IN/text.pth cannot be read as a checkpoint"),
        (["--annotations", "IN/text.json"], "IN/text.json cannot be read as COCO annotations"),
        (["--output", "TEXT/out"], "TEXT/out: Not a directory"),
        (["--json", "IN"], "IN: Is a directory"),
        (["--threshold", "2"], "threshold is 2.0, expected 0 to 1"),
        (["--batch-size", "0"], "batch_size is 0, expected 1 or more"),
        (["--device", "abacus"], "device 'abacus' is none"),
        (["--opts", "model.num_querys=3"], "the nearest is 'model.num_queries'"),
    ],
    "train_net.py": [
        (["--config-file", "IN/nowhere.py"], "IN/nowhere.py"),
        (["--config-file", "IN/text.yaml"], "IN/text.yaml"),
        ([*CONFIG, "train.init_checkpoint=IN/text.pth"], "IN/text.pth cannot be read as a check"),
        ([*CONFIG, "train.output_dir=TEXT/out"], "TEXT/out"),
    ],
    "tools/analyze_model.py": [
        (["--config-file", "IN/nowhere.py"], "'IN/nowhere.py' is not a file"),
        (["--config-file", "IN/text.txt"], "'IN/text.txt' must be a .py or .yaml file"),
        (["--config-file", "IN/text.yaml"], "IN/text.yaml"),
        (["--config-file", "IN/empty.py"], "IN/empty.py lacks model, dataloader.train"),
        ([*CONFIG, "--size", "31", "64"], "at least 32 pixels high and wide, got [(31, 64)]"),
        ([*CONFIG, "model.num_querys=3"], "the nearest is 'model.num_queries'"),
    ],
    "tools/benchmark.py": [
        (["--config-file", "IN/nowhere.py"], "'IN/nowhere.py' is not a file"),
        (["--config-file", "IN/text.yaml"], "IN/text.yaml"),
        ([*CONFIG, "--weights", "IN/foreign.pth"], "IN/foreign.pth does not fit the model"),
        ([*CONFIG, "--json", "TEXT/out.json"], "TEXT: File exists"),
        ([*CONFIG, "--device", "abacus"], "device is 'abacus', must be cpu or cuda"),
    ],
    "tools/convergence_study.py": [
        (["--report", "--results", "IN/text.json"], "IN/text.json is not a results file"),
        (["--report", "--page", "IN/nowhere.md"], "--page IN/nowhere.md is not there"),
        (["--report", "--page", "IN/text.txt"], "the page must have '<!-- begin"),
        (["--list", "--results", "IN/text.json"], "IN/text.json is not a results file"),
        (["--run", "detr", "--results", "TEXT/out.json"], "TEXT: File exists"),
        (["--run", "nothing"], "--run 'nothing': the study has"),
    ],
    "tools/convert_checkpoint.py": [
        (["auto", "IN/nowhere.pth", "IN/out.pth"], "No such file: IN/nowhere.pth"),
        (["auto", "IN/text.pth", "IN/out.pth"], "IN/text.pth cannot be read"),
        (["official", "IN/foreign.pth", "IN/out.pth"], "IN/foreign.pth: "),
        (["auto", "IN/foreign.pth", "IN/out.bin"], "IN/out.bin must end in .pth"),
        (["auto", "IN/foreign.pth", "TEXT/out.pth"], "TEXT is not a folder"),
        (["detect", "IN/foreign.pth"], "it is nothing that is known here"),
    ],
    "tools/export_model.py": [
        (["--config-file", "IN/nowhere.py", "--output", "IN/x.ts"], "'IN/nowhere.py' is not a f"),
        ([*CONFIG, "--weights", "IN/foreign.pth", "--output", "IN/x.ts"], "does not fit the model"),
        ([*CONFIG, "--output", "IN/x.exe"], "output 'IN/x.exe' must end in one of .onnx"),
        ([*CONFIG, "--output", "TEXT/x.ts"], "must be a file in a folder that exists"),
        ([*CONFIG, "--output", "IN/x.ts", "--size", "64x64"], "at least 65 pixels each"),
    ],
    "tools/make_mini.py": [
        (["TEXT/out"], "TEXT/out: Not a directory"),
        (["IN/out", "--min-height", "90", "--max-height", "80"], "min_height=90, max_height=80"),
        (["IN/out", "--val", "0"], "--val is 0, must be 1 or more"),
    ],
    "tools/mutation_check.py": [(["9999"], "there is no mutant 9999")],
    "tools/onnx_demo.py": [
        (["IN/nowhere.onnx", "IN/text.jpg"], "IN/nowhere.onnx is not a file"),
        (["IN/text.txt", "IN/text.jpg"], "IN/text.txt cannot be read as a model of ONNX"),
    ],
    "tools/plot_convergence.py": [
        (["IN/out.png", "--logs", "IN/nowhere"], "IN/nowhere is not there"),
        (["IN/out.png", "--logs", "IN/text.txt"], "IN/text.txt, line 1: not JSON"),
        (["IN/out.png", "--figure", "6", "--results", "IN/text.json"], "is not a results file"),
        (["IN/out.exe", "--figure", "6"], "IN/out.exe must end in one of ."),
        (["TEXT/out.png", "--figure", "6"], "TEXT: File exists"),
    ],
    "tools/pretrain_mini_backbone.py": [
        (["--output", "TEXT/out.pth"], "TEXT: File exists"),
        (["--output", "IN/out.pth", "--size", "8"], "max_height=56, size=8"),
        (["--output", "IN/out.pth", "--epochs", "0"], "--epochs is 0, must be 1 or more"),
    ],
    "tools/report.py": [
        (["IN/nowhere"], "IN/nowhere/config.yaml is missing: not the folder of a run"),
        (["IN/run_without_log"], "metrics.json, line 1: not JSON"),
        (["IN/run_without_config"], "config.yaml"),
        (["IN/run_of_another_model"], "model.pth does not fit the model"),
        (["IN/run_with_text"], "model.pth cannot be read as a checkpoint"),
    ],
    "tools/visualize.py": [
        (["IN/nowhere.jpg"], "there is no file or folder IN/nowhere.jpg"),
        (["IN/text.jpg", "--output", "IN/out"], "cannot read image IN/text.jpg"),
        (["--model", "IN/text.yaml", "IN/foreign.pth", "--output", "IN/out"], "IN/text.yaml"),
        (["--model", MINI, "IN/foreign.pth", "--output", "IN/out"], "does not fit the model"),
        (["--output", "TEXT/out"], "TEXT/out: Not a directory"),
    ],
}
ALL = [(script, *case) for script, cases in CASES.items() for case in cases]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Files that are not what their names say, a checkpoint of another model, broken runs."""
    folder = tmp_path_factory.mktemp("inputs")
    for suffix in ("txt", "jpg", "mp4", "pth", "json", "yaml"):
        (folder / f"text.{suffix}").write_text("no such thing\n")
    (folder / "empty.py").touch()
    (folder / "empty").mkdir()
    torch.save({"model": {"weight": torch.zeros(1)}}, folder / "foreign.pth")
    make_run(folder / "run_without_log", log="no log")
    make_run(folder / "run_without_config").joinpath("config.yaml").write_text("no config")
    make_run(folder / "run_of_another_model", (folder / "foreign.pth").read_bytes())
    make_run(folder / "run_with_text", b"no checkpoint")
    return folder


def make_run(folder, checkpoint=b"", log='{"iteration": 1, "total_loss": 2.0}'):
    folder.mkdir()
    LazyConfig.save(model_zoo.get_config("mini/sam_detr_smca"), str(folder / "config.yaml"))
    (folder / "metrics.json").write_text(log + "\n")
    (folder / "last_checkpoint").write_text("model.pth")
    (folder / "model.pth").write_bytes(checkpoint)
    return folder


@pytest.mark.parametrize(("script", "arguments", "words"), ALL)
def test_bad_input_is_one_sentence(script, arguments, words, inputs, tmp_path, monkeypatch, capsys):
    if script == "tools/onnx_demo.py" and not ONNX:
        pytest.skip("needs onnxruntime")
    monkeypatch.chdir(tmp_path)
    before = sorted(inputs.iterdir())

    def placed(text):
        return text.replace("TEXT", "IN/text.txt").replace("IN/", f"{inputs}/")

    code = run_script(script, *(str(inputs) if x == "IN" else placed(x) for x in arguments))

    shown = capsys.readouterr().err
    assert code == 2 and "Traceback" not in shown, shown
    (sentence,) = [x for x in shown.splitlines() if x.startswith(f"{Path(script).name}: ")]
    assert (str(inputs) + words[2:] if words.startswith("IN: ") else placed(words)) in sentence
    made = [x.name for x in inputs.iterdir() if x not in before]
    assert made in ([], ["out"])  # a folder for pictures may have been made


def test_every_tool_is_tried():
    tools = {f"tools/{x.name}" for x in (ROOT / "tools").glob("*.py")}
    assert set(CASES) == tools | {"demo.py", "train_net.py"}
