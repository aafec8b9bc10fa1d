"""Bad input ends every command with one sentence on stderr and exit code 2."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from command_line import ROOT, run_script

MINI = str(ROOT / "configs/mini/sam_detr_smca.py")
CONFIG = ["--config-file", MINI]
LIBRARIES = {"tools/argument_types.py", "tools/weight.py"}  # without input to refuse

# A bad input per command, and words of the error. IN is the folder of `inputs`; nothing can be
# written under TEXT, a file.
CASES: dict[str, list[tuple[list[str], str]]] = {
    "demo.py": [
        (["--input", "IN/nowhere.jpg"], "IN/nowhere.jpg"),
        (["--checkpoint", "IN/foreign.pth"], "IN/foreign.pth does not fit the model"),
    ],
    "train_net.py": [(["--config-file", "IN/nowhere.py"], "IN/nowhere.py")],
    "tools/analyze_model.py": [
        (["--config-file", "IN/nowhere.py"], "IN/nowhere.py"),
        ([*CONFIG, "--size", "31", "64"], "at least 32 pixels high and wide, got [(31, 64)]"),
    ],
    "tools/average_checkpoints.py": [
        (["IN/foreign.pth", "IN/nowhere.pth", "IN/out.pth"], "IN/nowhere.pth"),
    ],
    "tools/benchmark.py": [([*CONFIG, "--json", "TEXT/out.json"], "TEXT")],
    "tools/benchmark_data.py": [(["--images", "0"], "'0' must be an integer, 1 or more")],
    "tools/convergence_study.py": [
        (["--report", "--results", "IN/text.json"], "IN/text.json is not a results file"),
        (["--run", "nothing"], "--run 'nothing': the study has"),
    ],
    "tools/convert_checkpoint.py": [
        (["auto", "IN/text.pth", "IN/out.pth"], "IN/text.pth cannot be read"),
    ],
    "tools/export_model.py": [
        ([*CONFIG, "--output", "IN/x.exe"], "output 'IN/x.exe' must end in one of"),
    ],
    "tools/make_mini.py": [(["IN/out", "--val", "0"], "--val is 0, must be 1 or more")],
    "tools/mutation_check.py": [(["9999"], "there is no mutant 9999")],
    "tools/onnx_demo.py": [(["IN/nowhere.onnx", "IN/text.jpg"], "IN/nowhere.onnx")],
    "tools/plot_convergence.py": [
        (["IN/out.png", "--logs", "IN/text.txt"], "IN/text.txt, line 1: not JSON"),
        (["IN/out.exe", "--figure", "6"], "IN/out.exe must end in one of ."),
    ],
    "tools/pretrain_mini_backbone.py": [
        (["--output", "IN/out.pth", "--epochs", "0"], "--epochs is 0, must be 1 or more"),
    ],
    "tools/report.py": [(["IN/nowhere"], "IN/nowhere")],
    "tools/visualize.py": [(["IN/text.jpg", "--output", "IN/out"], "IN/text.jpg")],
}
ALL = [(script, *case) for script, cases in CASES.items() for case in cases]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Folder of text files with suffixes of other formats, and a checkpoint of another model."""
    folder = tmp_path_factory.mktemp("inputs")
    for suffix in ("txt", "jpg", "pth", "json"):
        (folder / f"text.{suffix}").write_text("no such thing\n")
    torch.save({"model": {"weight": torch.zeros(1)}}, folder / "foreign.pth")
    return folder


@pytest.mark.parametrize(("script", "arguments", "words"), ALL)
def test_bad_input_is_one_sentence(script, arguments, words, inputs, tmp_path, monkeypatch, capsys):
    if script == "tools/onnx_demo.py":
        pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)

    def placed(text):
        return text.replace("TEXT", "IN/text.txt").replace("IN/", f"{inputs}/")

    code = run_script(script, *map(placed, arguments))

    shown = capsys.readouterr().err
    assert code == 2 and "Traceback" not in shown, shown
    (sentence,) = [x for x in shown.splitlines() if x.startswith(f"{Path(script).name}: ")]
    assert placed(words) in sentence


@pytest.mark.parametrize("script", [*CASES, "tools/weight.py"])
def test_help_ends_quietly_when_nobody_reads_it(script, monkeypatch, capsys):
    if script == "tools/onnx_demo.py":
        pytest.importorskip("onnxruntime")
    reader, writer = os.pipe()
    os.close(reader)
    stream = os.fdopen(writer, "w")
    monkeypatch.setattr(sys, "stdout", stream)
    assert run_script(script, "--help") == 0
    stream.close()  # raises BrokenPipeError if the text has not been given up
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_imports_of_libraries_say_nothing():
    command = [sys.executable, str(ROOT / "demo.py"), "--help"]
    path = os.pathsep.join(filter(None, sys.path))
    process = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )
    assert (process.returncode, process.stderr) == (0, "")


def test_every_command_has_a_case():
    tools = {f"tools/{x.name}" for x in (ROOT / "tools").glob("*.py")} - LIBRARIES
    assert set(CASES) == tools | {"demo.py", "train_net.py"}
