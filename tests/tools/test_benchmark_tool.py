"""tools/benchmark.py from its command line: every mode and its JSON."""

import json
import runpy
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
MINI = ROOT / "configs/mini/sam_detr_smca.py"
DETR = ROOT / "configs/mini/detr.py"
SHALLOW = "model.decoder.levels=[0]"
SMALL = ["--size", "32x48", "--repeat", "2", "--warmup", "0"]


@pytest.fixture(scope="module")
def main():
    """`main` of tools/benchmark.py, whose module name is that of the package beside it."""
    return runpy.run_path(str(ROOT / "tools/benchmark.py"))["main"]


def same(model):
    """Identity baseline for `--against`."""
    return model


def check_schema(figures, names):
    assert [result["name"] for result in figures["results"]] == names
    assert figures["command"][0] == "tools/benchmark.py"
    assert {"cpu", "threads", "gpu", "torch", "python", "date"} == set(figures["machine"])
    for result in figures["results"]:
        assert len(result["seconds"]) == figures["options"]["repeat"]
        assert result["minimum"] <= result["median"] <= result["maximum"]
    assert figures["results"][0]["ratio"] == 1.0


def test_step_in_bfloat16_with_memory_and_profile(main, tmp_path, capsys):
    out = tmp_path / "out.json"
    arguments = ["--config-file", str(MINI), "model.num_queries=12", *SMALL, "--mode", "step"]
    arguments += [SHALLOW]
    arguments += ["--dtype", "bfloat16", "--batch", "2", "--memory", "--profile"]
    main([*arguments, "--json", str(out)])
    figures = json.loads(out.read_text())
    check_schema(figures, ["mini/sam_detr_smca"])
    (result,) = figures["results"]
    memory, profile = result["memory"], result["profile"]
    assert memory["above"] == memory["peak"] - memory["before"] > 0
    assert memory["saved"] > 0
    assert set(profile["phases"]) == {"backward", "clip", "optimizer"}
    assert {"backbone", "criterion.matcher", "decoder.aligner.pooler"} <= profile["forward"].keys()
    assert len(profile["operators"]) == 15
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| contestant") and "peak GiB" in lines[0]
    assert any(x.startswith("| decoder.aligner.pooler") for x in lines)


def test_scale_measures_every_point_of_the_axes(main, tmp_path, capsys):
    out = tmp_path / "out.json"
    arguments = ["--config-file", str(DETR), "--mode", "step", "--size", "32x48", "--repeat", "1"]
    arguments += ["--warmup", "0", "--against", "test_benchmark_tool:same", SHALLOW]
    main([*arguments, "--scale", "batch", "boxes", "--json", str(out)])
    scale = json.loads(out.read_text())["scale"]
    assert [x["name"] for x in scale[0]["results"]] == ["mini/detr", "test_benchmark_tool:same"]
    points = [(x["axis"], x["value"]) for x in scale]
    assert points == [
        *(("batch", x) for x in ("1", "2", "4")),
        *(("boxes", x) for x in ("1", "10", "30", "100")),
    ]
    assert len(capsys.readouterr().out.splitlines()) == 2 + len(points)


def test_loading_counts_images_of_synthetic_photographs(main, tmp_path):
    out = tmp_path / "out.json"
    arguments = ["--config-file", str(MINI), "--mode", "loading", "--photographs", "4"]
    arguments += ["--batches", "2", "--batch", "3", "--workers", "0", "--repeat", "2"]
    main([*arguments, "--warmup", "0", "--json", str(out)])
    figures = json.loads(out.read_text())
    check_schema(figures, ["mini/sam_detr_smca"])
    (result,) = figures["results"]
    assert result["images_per_second"] * result["median"] == pytest.approx(6)
