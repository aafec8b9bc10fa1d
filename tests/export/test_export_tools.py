"""tools/export_model.py writes ONNX that tools/onnx_demo.py runs without PyTorch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate

import export_model
from samdetr import Predictor, model_zoo
from samdetr.data import example_image
from samdetr.engine import load_config

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
INPUTS = ROOT / "tests/data/inputs"
CONFIG = str(ROOT / "configs/mini/sam_detr_smca.py")
# The further decoder layers repeat the operators of the first, and the export takes its time.
SHALLOW = "model.decoder.levels=[0]"
# Runs a script in a process in which torch and samdetr cannot be imported.
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
def weights(tmp_path_factory):
    """The trained weights of the layers that the shallow model has."""
    model = instantiate(load_config(CONFIG, [SHALLOW]).model)
    trained = torch.load(model_zoo.get_checkpoint("mini/sam_detr_smca"))["model"]
    file = tmp_path_factory.mktemp("weights") / "shallow.pth"
    torch.save({"model": {name: trained[name] for name in model.state_dict()}}, file)
    return str(file)


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory, weights):
    pytest.importorskip("onnxruntime")
    file = tmp_path_factory.mktemp("export") / "mini.onnx"
    arguments = ["--config-file", CONFIG, "--weights", weights, "--output", str(file)]
    export_model.main([*arguments, SHALLOW])
    return file


def assert_rows(rows, expected):
    """Printed lines, without their images, are the detections of the predictor."""
    assert len(rows) == len(expected) > 0
    for (name, score, *box), kind, value, corners in zip(
        rows,
        expected.pred_classes.tolist(),
        expected.scores.tolist(),
        expected.pred_boxes.tensor.tolist(),
        strict=True,
    ):
        assert name == str(kind)  # the classes are digits
        assert float(score) == pytest.approx(value, abs=2e-3)
        assert [float(x) for x in box] == pytest.approx(corners, abs=0.15)


def test_onnx_without_torch_finds_what_the_predictor_finds(onnx_file, weights, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    images = [example_image(), *(str(INPUTS / x) for x in ("grey8.png", "grey16.png"))]

    file = tmp_path / "results.json"

    found = onnx_demo(onnx_file, broken, *images, "--json", file)

    assert found.returncode == 2 and f"cannot read image {broken}" in found.stderr
    lines = [line.split() for line in found.stdout.splitlines()]
    rows = [[row for name, *row in lines if name == image] for image in images]
    assert rows[1] == rows[2]  # of 8 and of 16 bits
    predictor = Predictor(CONFIG, weights, "cpu", overrides=[SHALLOW])
    for image, row in zip(images, rows):
        assert_rows(row, predictor(image))
    results = json.loads(file.read_text())
    assert [x["file_name"] for x in results] == [name for name, *_ in lines]
    # The data set's own ids of the digits from 0 on are 1 to 10.
    assert [x["category_id"] for x in results] == [int(name) + 1 for _, name, *_ in lines]
    for result, (*_, x0, y0, x1, y1) in zip(results, lines):
        left, top, width, height = result["bbox"]
        corners = [left, top, left + width, top + height]
        assert corners == pytest.approx([float(x) for x in (x0, y0, x1, y1)], abs=0.051)


def test_free_axes_of_onnx_are_named(onnx_file):
    onnx = pytest.importorskip("onnx")
    images, sizes = onnx.load(onnx_file).graph.input
    axes = [x.dim_param or x.dim_value for x in images.type.tensor_type.shape.dim]
    assert axes == ["batch", 3, "height", "width"]
    assert sizes.type.tensor_type.shape.dim[0].dim_param == "batch"


def test_mixed_precision_is_refused_and_nothing_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ["--config-file", CONFIG, "--output", "x.ts", "model.inference_dtype=bfloat16"]
    with pytest.raises(SystemExit) as stopped:
        export_model.main(arguments)
    assert stopped.value.code == 2
    assert "model.inference_dtype is bfloat16" in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]
