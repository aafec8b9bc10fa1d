"""The budgets of form: small files and functions, no branch in the layer, short configs."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("projects", "configs", "tools", "tests")
SOURCES = sorted([*ROOT.glob("*.py"), *(x for y in FOLDERS for x in (ROOT / y).rglob("*.py"))])
VARIANTS = sorted(
    x
    for y in ("ablations", "coco", "lvis", "mini", "voc")
    for x in (ROOT / "configs" / y).rglob("*.py")
)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def parse(file):
    return ast.parse(file.read_text())


def names(files):
    return [str(file.relative_to(ROOT)) for file in files]


def length(node):
    return node.end_lineno - node.lineno + 1


def is_docstring(node):
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


@pytest.mark.parametrize("name", names(SOURCES))
def test_files_and_functions_are_small(name):
    text = (ROOT / name).read_text()
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, FUNCTIONS)]
    assert text.count("\n") <= 350
    assert [node.name for node in functions if length(node) > 60] == []


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
