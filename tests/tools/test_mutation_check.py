"""The tool that changes operators: its list fits the package, and it tells found from alive."""

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
MUTANT = Mutant("numbers.py", "return a - b", "return a + b", "test_numbers")


def checkout(folder: Path, assertion: str) -> Path:
    """A package of one function and its test."""
    (folder / PACKAGE).mkdir(parents=True)
    (folder / PACKAGE / "__init__.py").touch()
    (folder / PACKAGE / "numbers.py").write_text(FUNCTION)
    (folder / "tests").mkdir()
    (folder / "tests/test_numbers.py").write_text(TEST.format(assertion=assertion))
    return folder


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_the_list_fits_the_package(mutant):
    source = (ROOT / PACKAGE / mutant.file).read_text()
    compile(mutation_check.mutated(source, mutant), mutant.file, "exec")
    missing = [x for x in mutant.tests.split() if not [*(ROOT / "tests").rglob(f"{x}.py")]]
    assert missing == [] and mutant.tests


@pytest.mark.slow
@pytest.mark.parametrize(
    ("assertion", "code", "said"),
    [
        ("difference(3, 2) == 1", 0, "found numbers.py"),
        ("difference(3, 0) == 3", 1, "ALIVE numbers.py"),
        ("difference(3, 2) == 5", 2, ""),  # fails as it is
    ],
)
def test_a_mutant_that_no_test_holds_is_told(tmp_path, capsys, assertion, code, said):
    root = checkout(tmp_path, assertion)
    assert mutation_check.try_all([MUTANT], root) == code
    assert said in capsys.readouterr().out
    assert (root / PACKAGE / "numbers.py").read_text() == FUNCTION


@pytest.mark.parametrize(("old", "count"), [("a * b", 0), ("- ", 2)])
def test_a_text_that_is_not_there_once_is_an_error(old, count):
    with pytest.raises(ValueError, match=f"the old text is there {count} times"):
        mutation_check.mutated(FUNCTION, MUTANT._replace(old=old))


def test_numbers_choose_from_the_list(capsys):
    assert mutation_check.main(["--list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(MUTANTS) >= 20
    with pytest.raises(SystemExit) as error:
        mutation_check.main(["99"])
    assert error.value.code == 2
    assert "they are 0 to" in capsys.readouterr().err
