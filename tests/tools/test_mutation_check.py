"""The mutation test: its list fits the package, and it tells found mutants from survivors."""

from pathlib import Path

import pytest

import mutation_check
from mutation_check import MUTANTS, PACKAGE, ROOT, Mutant

FUNCTION = "def difference(a, b):\n    return a - b  # or b - a\n"
TEST = """
import sys
sys.path.insert(0, "projects/SAMDETR")
from samdetr.numbers import difference

def test_difference():
    assert {assertion}
"""
MUTANT = Mutant("return a - b", "return a + b", "test_numbers")


def checkout(folder: Path, assertion: str) -> Path:
    """A package of one function and its test."""
    (folder / PACKAGE).mkdir(parents=True)
    (folder / PACKAGE / "__init__.py").touch()
    (folder / PACKAGE / "numbers.py").write_text(FUNCTION)
    (folder / "tests").mkdir()
    (folder / "tests/test_numbers.py").write_text(TEST.format(assertion=assertion))
    return folder


def test_the_list_fits_the_package():
    for mutant in MUTANTS:
        file = mutation_check.find(ROOT, mutant)
        compile(file.read_text().replace(mutant.old, mutant.new), file.name, "exec")
        assert mutant.tests and mutant.old != mutant.new
        assert all([*(ROOT / "tests").rglob(f"{x}.py")] for x in mutant.tests.split()), mutant


@pytest.mark.slow
@pytest.mark.parametrize(
    ("assertion", "code", "output"),
    [
        ("difference(3, 2) == 1", 0, "found numbers.py"),
        ("difference(3, 0) == 3", 1, "ALIVE numbers.py"),
    ],
)
def test_a_survivor_is_reported(tmp_path, capsys, assertion, code, output):
    root = checkout(tmp_path, assertion)
    assert mutation_check.try_all([MUTANT], root) == code
    assert output in capsys.readouterr().out
    assert (root / PACKAGE / "numbers.py").read_text() == FUNCTION


@pytest.mark.parametrize("old", ["a * b", "- "])
def test_a_text_that_does_not_occur_once_is_an_error(old, tmp_path):
    with pytest.raises(ValueError, match="must occur once"):
        mutation_check.find(checkout(tmp_path, "True"), MUTANT._replace(old=old))
