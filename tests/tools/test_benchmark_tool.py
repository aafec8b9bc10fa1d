"""tools/benchmark.py from its command line: every mode, its JSON, and what it refuses."""

import json
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
MINI = ROOT / "configs/mini/sam_detr_smca.py"
DETR = ROOT / "configs/mini/detr.py"
SMALL = ["--size", "32x48", "--repeat", "2", "--warmup", "0"]


@pytest.fixture
def main(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools")
    monkeypatch.delitem(sys.modules, "benchmark", raising=False)
    from benchmark import main

    return main


def check_schema(figures, names):
    assert [result["name"] for result in figures["results"]] == names
    assert figures["command"][0] == "tools/benchmark.py"
    assert {"cpu", "threads", "gpu", "torch", "python", "date"} == set(figures["machine"])
    for result in figures["results"]:
        assert len(result["seconds"]) == figures["options"]["repeat"]
        assert result["minimum"] <= result["median"] <= result["maximum"]
    assert figures["results"][0]["ratio"] == 1.0


def test_forward_of_several_configs_and_a_baseline(main, tmp_path, capsys):
    out = tmp_path / "out.json"
    arguments = ["--config-file", str(MINI), str(DETR), "model.num_queries=12", *SMALL]
    main([*arguments, "--against", "test_benchmark:same", "--json", str(out)])
    names = ["mini/sam_detr_smca", "mini/detr", "test_benchmark:same"]
    check_schema(json.loads(out.read_text()), names)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| contestant") and len(lines) == 2 + len(names)


def test_step_in_bfloat16_with_memory_and_profile(main, tmp_path, capsys):
    out = tmp_path / "out.json"
    arguments = ["--config-file", str(MINI), *SMALL, "--mode", "step", "--dtype", "bfloat16"]
    main([*arguments, "--batch", "2", "--memory", "--profile", "--json", str(out)])
    figures = json.loads(out.read_text())
    check_schema(figures, ["mini/sam_detr_smca"])
    (result,) = figures["results"]
    memory = result["memory"]
    assert memory["above"] == memory["peak"] - memory["before"] > 0
    assert memory["saved"] > 0
    profile = result["profile"]
    assert set(profile["phases"]) == {"backward", "clip", "optimizer"}
    assert {"backbone", "criterion", "decoder.aligner.pooler"} <= set(profile["forward"])
    assert {"backbone", "criterion", "decoder.cross_attention"} <= set(profile["backward"])
    assert len(profile["operators"]) == 15
    text = capsys.readouterr().out
    assert "peak GiB" in text and "decoder.aligner.pooler" in text


def test_scale_measures_every_point_of_the_axes(main, tmp_path, capsys):
    out = tmp_path / "out.json"
    arguments = ["--config-file", str(DETR), "--mode", "step", "--size", "64x96", "--repeat", "1"]
    main([*arguments, "--warmup", "0", "--scale", "size", "boxes", "--json", str(out)])
    points = [(x["axis"], x["value"]) for x in json.loads(out.read_text())["scale"]]
    sizes = ["32x48", "48x72", "64x96", "80x120", "96x144"]
    assert points == [
        *(("size", x) for x in sizes),
        *(("boxes", x) for x in ("1", "10", "30", "100")),
    ]
    assert len(capsys.readouterr().out.splitlines()) == 2 + len(points)


def test_loading_counts_images_of_made_up_photographs(main, tmp_path):
    out = tmp_path / "out.json"
    arguments = ["--config-file", str(MINI), "--mode", "loading", "--photographs", "4"]
    arguments += ["--batches", "2", "--batch", "3", "--workers", "0", "--repeat", "2"]
    main([*arguments, "--warmup", "0", "--json", str(out)])
    figures = json.loads(out.read_text())
    check_schema(figures, ["mini/sam_detr_smca"])
    (result,) = figures["results"]
    assert result["images_per_second"] * result["median"] == pytest.approx(6)
