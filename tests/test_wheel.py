"""A wheel, by way of a source distribution, works where there is no checkout.

Building needs setuptools and wheel in this environment, and no network.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from samdetr import Predictor, model_zoo
from samdetr.data import example_image

ROOT = Path(__file__).parents[1]
BUILT_FROM = ("setup.py", "setup.cfg", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE")
BUILT_FROM += ("NOTICE", "configs", "projects")
NEEDED = ("setuptools", "wheel", "pip")
USE = """
import json
from pathlib import Path
import samdetr
from samdetr import model_zoo
from samdetr.data import example_image

parameters = sum(x.numel() for x in model_zoo.get("coco/sam_detr_pp_r50_12ep", "").parameters())
found = samdetr.Predictor("mini/sam_detr_smca", device="cpu")(example_image())
own = [samdetr.__file__, example_image(), model_zoo.get_config_file("mini/sam_detr_smca")]
own.append(model_zoo.get_config("mini/sam_detr_smca").train.init_checkpoint)
print(json.dumps({
    "own": own,
    "names": model_zoo.list(),
    "parameters": parameters,
    "boxes": found.pred_boxes.tensor.tolist(),
    "classes": found.pred_classes.tolist(),
}))
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(map(importlib.util.find_spec, NEEDED)), reason=f"needs {', '.join(NEEDED)}"
    ),
]


def python(*arguments, cwd, **variables):
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", **variables}
    command = [sys.executable, *map(str, arguments)]
    process = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The file, made of a source distribution, made of a copy: building leaves files behind."""
    folder = tmp_path_factory.mktemp("build")
    source = folder / "source"
    source.mkdir()
    unwanted = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in BUILT_FROM:
        path = ROOT / name
        copy = shutil.copytree if path.is_dir() else shutil.copy
        copy(path, source / name, **(dict(ignore=unwanted) if path.is_dir() else {}))
    backend = "from setuptools import build_meta; build_meta.build_sdist"
    python("-c", f"{backend}({str(folder)!r})", cwd=source)
    (archive,) = folder.glob("*.tar.gz")
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder)
    python("-m", "pip", "wheel", "-q", *options, archive, cwd=folder)
    (file,) = folder.glob("*.whl")
    return file


def test_the_wheel_has_what_the_checkout_has(wheel):
    package = ROOT / "projects/SAMDETR"
    expected = {x.relative_to(package).as_posix() for x in package.rglob("*.py")}
    expected |= {f"samdetr/{x.relative_to(ROOT)}" for x in (ROOT / "configs").rglob("*.py")}
    expected |= {f"samdetr/weights/{x.name}" for x in (package / "samdetr/weights").iterdir()}
    expected.add("samdetr/data/example.jpg")
    with zipfile.ZipFile(wheel) as archive:
        found = set(archive.namelist())
    assert expected <= found
    assert {x.split("/")[0].split("-")[0] for x in found} == {"samdetr"}
    assert not [x for x in found if x.endswith(".pyc")]
    assert [x for x in found if x.endswith("NOTICE")]


def test_an_installed_wheel_lists_the_zoo_builds_a_model_and_predicts(wheel, tmp_path):
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    options = ("--no-deps", "--no-index", "--no-compile", "--target", site)
    python("-m", "pip", "install", "-q", *options, wheel, cwd=elsewhere)

    found = json.loads(python("-W", "ignore", "-c", USE, cwd=elsewhere, PYTHONPATH=str(site)))

    assert all(Path(x).is_relative_to(site) for x in found["own"]), found["own"]
    assert found["names"] == model_zoo.list()
    assert found["parameters"] > 54_000_000
    expected = Predictor("mini/sam_detr_smca", device="cpu")(example_image())
    assert found["classes"] == expected.pred_classes.tolist()
    assert sorted(found["classes"]) == [0, 1, 3]  # the digits in the picture
    assert found["boxes"] == pytest.approx(expected.pred_boxes.tensor.numpy(), abs=1e-2)
