"""Limits of the code's layout: size of folders, files, functions and configs, and dependencies."""

import ast
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from weight import PACKAGE, weigh

ROOT = Path(__file__).parents[1]
FOLDERS = ("projects", "configs", "tools", "tests")
SOURCES = sorted([*ROOT.glob("*.py"), *(x for y in FOLDERS for x in (ROOT / y).rglob("*.py"))])
VARIANTS = sorted(
    x
    for y in ("ablations", "coco", "lvis", "mini", "voc")
    for x in (ROOT / "configs" / y).rglob("*.py")
)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
FORBIDDEN = re.compile(r"unittest\.mock|patch\.object|mallopt|\b_Unpickler")


def parse(file):
    return ast.parse(file.read_text())


def names(files):
    return [str(file.relative_to(ROOT)) for file in files]


def length(node):
    return node.end_lineno - node.lineno + 1


def is_docstring(node):
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


@pytest.mark.parametrize(
    ("folder", "nested", "limit"),
    [
        (".", True, 17_500),
        ("engine", True, 2_000),
        ("data", True, 2_300),
        ("modeling", False, 4_200),
        ("modeling/ops", True, 1_400),
    ],
)
def test_folders_stay_within_their_limits(folder, nested, limit):
    assert 0 < weigh(PACKAGE / folder, nested)[0] <= limit


def test_files_and_functions_are_small():
    for file in SOURCES:
        limit = 250 if file.parent == PACKAGE / "modeling/detrs" else 350
        assert file.read_text().count("\n") <= limit, file
        functions = [node for node in ast.walk(parse(file)) if isinstance(node, FUNCTIONS)]
        assert [node.name for node in functions if length(node) > 60] == [], file


def test_the_package_patches_nothing():
    files = PACKAGE.rglob("*.py")
    assert [x.name for x in files if FORBIDDEN.search(x.read_text(encoding="utf-8"))] == []


def test_the_model_does_not_import_conversion():
    for file in (PACKAGE / "modeling").rglob("*.py"):
        imports = [x for x in ast.walk(parse(file)) if isinstance(x, ast.Import | ast.ImportFrom)]
        assert [ast.unparse(x) for x in imports if "convert" in ast.unparse(x).split()[1]] == []


def test_names_of_modules_are_unique():
    counts = Counter(x.name for x in PACKAGE.rglob("*.py") if x.name != "__init__.py")
    assert [name for name, count in counts.items() if count > 1] == []


def test_the_decoder_layer_does_not_branch():
    tree = parse(ROOT / "projects/SAMDETR/samdetr/modeling/decoder.py")
    (layer,) = [x for x in tree.body if isinstance(x, ast.ClassDef) and x.name == "DecoderLayer"]
    (forward,) = [x for x in layer.body if isinstance(x, FUNCTIONS) and x.name == "forward"]
    branches = (ast.If, ast.IfExp, ast.Match, ast.While, ast.Try)
    assert [x.lineno for x in ast.walk(forward) if isinstance(x, branches)] == []


@pytest.mark.parametrize("name", names(VARIANTS))
def test_a_variant_is_a_short_list_of_assignments(name):
    tree = parse(ROOT / name)
    assert is_docstring(tree.body[0])
    code = [node for node in tree.body if not is_docstring(node)]
    statements = (ast.Assign, ast.Import, ast.ImportFrom)
    assert [ast.unparse(node) for node in code if not isinstance(node, statements)] == []
    loops = (ast.Lambda, ast.ListComp, ast.DictComp, ast.SetComp, ast.GeneratorExp, ast.IfExp)
    assert [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, loops)] == []
    assert sum(map(length, code)) <= 25


def asserts(node, helpers=()):
    """If a function asserts something itself or calls one of the helpers that do."""
    called = {ast.unparse(x.func) for x in ast.walk(node) if isinstance(x, ast.Call)}
    checks = re.compile(r"\bassert|\braises\b|\bwarns\b")
    return bool(checks.search(ast.unparse(node)) or called.intersection(helpers))


def test_every_test_asserts_something():
    silent = []
    for file in (x for x in SOURCES if x.name.startswith("test_")):
        functions = [x for x in ast.walk(parse(file)) if isinstance(x, FUNCTIONS)]
        helpers = {x.name for x in functions if asserts(x)}
        tests = [x for x in functions if x.name.startswith("test_")]
        silent += [f"{file.name}: {x.name}" for x in tests if not asserts(x, helpers)]
    assert silent == []


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]])
def test_ruff_finds_nothing(command):
    process = subprocess.run(
        [sys.executable, "-m", "ruff", *command, "."], cwd=ROOT, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stdout + process.stderr
