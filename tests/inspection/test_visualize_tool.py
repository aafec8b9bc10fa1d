"""tools/visualize.py writes figures and the page, and refuses bad options in one sentence."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from inspection_makers import make_mini

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SHIPPED = str(ROOT / "projects/SAMDETR/samdetr/weights/mini_sam_detr_smca.pth")


@pytest.fixture
def main(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools")
    monkeypatch.delitem(sys.modules, "visualize", raising=False)
    from visualize import main

    return main


@pytest.fixture
def photo(tmp_path):
    pixels = np.random.default_rng(0).integers(256, size=(60, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def refuse(main, capsys, arguments):
    """The one sentence that the tool ends with."""
    with pytest.raises(SystemExit) as stop:
        main([str(x) for x in arguments])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line.partition(": ")[2]


def save(variant, path):
    torch.save({"model": make_mini(variant).state_dict()}, path)
    return str(path)


def test_without_arguments_the_trained_model_is_drawn_on_mini_val(main, tmp_path, capsys):
    main(["--count", "1", "--top", "2", "--html", "--output", str(tmp_path)])

    written = [Path(x) for x in capsys.readouterr().out.splitlines()]
    assert sorted(written) == sorted(tmp_path.iterdir())
    names = [x.name for x in written]
    assert names[0] == "000000_layers.png" and names[-1] == "index.html"
    assert all(re.fullmatch(r"000000_query\d+\.png", x) for x in names[1:3]) and len(names) == 4
    page = written[-1].read_text()
    data = json.loads(re.search(r'type="application/json">(.*?)</script>', page, re.DOTALL)[1])
    objects = data["images"][0]["objects"]
    for (view,) in objects:
        assert view["model"] == "sam_detr_smca" and len(view["layers"]) == 3
        assert view["layers"][-1]["score"] > 0.3
        assert [len(x["points"]) for x in view["layers"][-1]["maps"]] == [8] + [1] * 8
        assert all(x["sharpness"] for x in view["layers"][-1]["maps"][1:])


def test_the_original_detr_is_drawn_beside_with_given_queries(main, photo, tmp_path):
    out = tmp_path / "out"
    detr = save("detr", tmp_path / "detr.pth")
    models = ["--model", "mini/sam_detr_smca", SHIPPED]
    models += ["--model", str(ROOT / "configs/mini/detr.py"), detr]
    main([str(photo), *models, "--queries", "29", "0", "--output", str(out), "--dpi", "40"])

    assert sorted(x.name for x in out.iterdir()) == [
        "photo_layers.png",
        "photo_query0.png",
        "photo_query29.png",
    ]
    height = Image.open(out / "photo_query0.png").size[1]
    assert height == pytest.approx(40 * (0.25 + 6 * 1.3 * 2 / 3), abs=2)  # three layers of each


def test_what_cannot_be_drawn_is_one_sentence(main, photo, tmp_path, capsys):
    deformable = ["--model", "mini/deformable_detr", save("deformable_detr", tmp_path / "d.pth")]
    twin = tmp_path / "photo.jpg"
    twin.write_bytes(photo.read_bytes())
    cases = {
        f"figures of {photo} and {twin} would have": [photo, twin],
        "query 30: sam_detr_smca has queries 0 to 29": [photo, "--queries", "3", "30"],
        "DeformableCrossAttention samples a few points": [photo, *deformable],
    }
    for start, arguments in cases.items():
        arguments += ["--output", tmp_path / "out"]
        assert refuse(main, capsys, arguments).startswith(start), start
    assert not list((tmp_path / "out").iterdir())
