"""Installation: errors for missing or unfit packages, and when `make` updates the environment."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "projects/SAMDETR"
FITTING = {
    "torch/__init__.py": "__version__ = '2.0'",
    "torchvision/__init__.py": "",
    "detectron2/__init__.py": "__version__ = '0.6'",
    "detectron2/config.py": "",
}


def python(*arguments, path=()):
    """Run Python without site-packages, with `path` alone on its search path."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
    command = [sys.executable, "-S", *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def import_beside(folder, files):
    """Import samdetr beside stub modules made from `files`; return the last line of stderr."""
    for name, text in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    process = python("-c", "import samdetr", path=[folder, PACKAGE])
    return process.stderr.strip().splitlines()[-1] if process.returncode else ""


def test_the_package_imports_beside_what_fits(tmp_path):
    assert import_beside(tmp_path, FITTING) == ""


@pytest.mark.parametrize("absent", ["torch", "torchvision", "detectron2"])
def test_a_missing_package_is_named_with_what_to_run(tmp_path, absent):
    files = {name: text for name, text in FITTING.items() if name.split("/")[0] != absent}
    error = import_beside(tmp_path, files)
    assert error.startswith(f"ImportError: samdetr cannot import {absent} (No module named")
    assert "tools/setup_env.sh" in error


def test_a_torchvision_of_another_torch_is_named(tmp_path):
    broken = "raise RuntimeError('operator torchvision::nms does not exist')"
    error = import_beside(tmp_path, {**FITTING, "torchvision/__init__.py": broken})
    assert error.startswith("ImportError: samdetr cannot import torchvision (operator ")
    assert "versions that belong together" in error


def test_a_folder_called_detectron2_is_not_taken_for_it(tmp_path):
    """Such as a fresh clone beside the script."""
    files = {name: text for name, text in FITTING.items() if not name.startswith("detectron2")}
    (tmp_path / "detectron2").mkdir()
    error = import_beside(tmp_path, files)
    assert error.startswith("ImportError: samdetr cannot import detectron2 (No module named")


def test_train_net_says_in_one_sentence_that_the_package_is_not_installed():
    process = python(ROOT / "train_net.py", "--help")
    assert process.returncode == 1
    (line,) = process.stderr.strip().splitlines()
    assert line.startswith("train_net.py: samdetr is not installed") and "pip install -e ." in line


def setup_env(*arguments, **variables):
    command = ["bash", ROOT / "tools/setup_env.sh", *arguments]
    environment = {**os.environ, **variables}
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_set_up_refuses_an_interpreter_it_cannot_use(tmp_path):
    process = setup_env(tmp_path / "venv", PYTHON="no-such-python")
    assert process.returncode == 1
    assert "no-such-python is not Python 3.10 to 3.13" in process.stderr
