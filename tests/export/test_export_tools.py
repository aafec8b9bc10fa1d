"""tools/export_model.py and tools/onnx_demo.py: ONNX that runs without PyTorch, and bad input."""

import subprocess
import sys
from pathlib import Path

import pytest

import export_model
from samdetr import Predictor, model_zoo
from samdetr.data import example_image

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / "configs/mini/sam_detr_smca.py")
# Runs a script in a process that has no torch and no samdetr.
WITHOUT_TORCH = """
import runpy, sys
for name in ("torch", "detectron2", "samdetr"):
    sys.modules[name] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def onnx_demo(*arguments):
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, ROOT / "tools/onnx_demo.py", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory):
    pytest.importorskip("onnxruntime")
    file = tmp_path_factory.mktemp("export") / "mini.onnx"
    weights = model_zoo.get_checkpoint("mini/sam_detr_smca")
    export_model.main(["--config-file", CONFIG, "--weights", weights, "--output", str(file)])
    return file


def test_onnx_without_torch_finds_what_the_predictor_finds(onnx_file):
    found = onnx_demo(onnx_file, example_image())
    assert found.returncode == 0, found.stderr
    rows = [line.removeprefix(example_image()).split() for line in found.stdout.splitlines()]
    expected = Predictor("mini/sam_detr_smca", device="cpu")(example_image())
    assert len(rows) == len(expected) > 0
    for (name, score, *box), kind, value, corners in zip(
        rows,
        expected.pred_classes.tolist(),
        expected.scores.tolist(),
        expected.pred_boxes.tensor.tolist(),
        strict=True,
    ):
        assert name == str(kind)  # digits are called what they are
        assert float(score) == pytest.approx(value, abs=2e-3)
        assert [float(x) for x in box] == pytest.approx(corners, abs=0.15)


def test_a_broken_image_is_reported_and_the_others_are_done(onnx_file, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    found = onnx_demo(onnx_file, broken, example_image())
    assert found.returncode == 2
    assert f"cannot read image {broken}" in found.stderr
    assert found.stdout.startswith(example_image())


def test_a_file_that_is_no_model_is_one_sentence(tmp_path):
    pytest.importorskip("onnxruntime")
    file = tmp_path / "x.onnx"
    file.write_bytes(b"nothing")
    for path, reason in [(file, "cannot be read as a model of ONNX"), ("nowhere", "is not a file")]:
        found = onnx_demo(path, example_image())
        assert found.returncode == 2
        assert reason in found.stderr and "Traceback" not in found.stderr


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--config-file", "nowhere.py", "--output", "x.ts"], "nowhere.py"),
        (["--config-file", CONFIG, "--output", "x.bin"], "must end in one of .onnx, .pt2, .ts"),
        (["--config-file", CONFIG, "--output", "x.ts", "--weights", "nowhere.pth"], "nowhere.pth"),
        (["--config-file", CONFIG, "--output", "nowhere/x.ts"], "nowhere"),
        (["--config-file", CONFIG, "--output", "x.ts", "--size", "1x"], "must be HEIGHTxWIDTH"),
        (["--config-file", CONFIG, "--output", "x.ts", "model.num_querys=3"], "num_querys"),
        (
            ["--config-file", CONFIG, "--output", "x.ts", "model.inference_dtype=bfloat16"],
            "model.inference_dtype is bfloat16",
        ),
    ],
)
def test_what_cannot_be_exported_is_one_sentence(arguments, reason, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        export_model.main(arguments)
    assert stopped.value.code == 2
    assert reason in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]
