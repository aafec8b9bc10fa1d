"""How a command ends: a sentence for what can be put right, a traceback for a fault of the code."""

import pytest

from samdetr.data import DataError
from samdetr.errors import EXIT_CODE, SamdetrError, refusing, sentence

WORKER = """Caught DataError in DataLoader worker process 0.
Original Traceback (most recent call last):
  File "mapper.py", line 1, in __call__
samdetr.data.DataError: a.jpg has no pixels
"""


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (DataError("a.txt has 3,\n  expected 4"), "a.txt has 3, expected 4"),
        (DataError(WORKER), "samdetr.data.DataError: a.jpg has no pixels"),
        (FileNotFoundError(2, "No such file or directory", "a.txt"), "a.txt: No such file or dir"),
        (OSError("no room"), "no room"),
        (ModuleNotFoundError("drawing needs cv2"), "drawing needs cv2"),
    ],
)
def test_what_can_be_put_right_is_one_sentence(error, sentence, capsys):
    with pytest.raises(SystemExit) as stopped, refusing("tool.py"):
        raise error
    assert stopped.value.code == EXIT_CODE == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"tool.py: {sentence}")


@pytest.mark.parametrize("error", [ValueError("x"), KeyError("x"), RuntimeError("x")])
def test_a_fault_of_the_code_keeps_its_traceback(error):
    assert not isinstance(error, SamdetrError)
    with pytest.raises(type(error)), refusing("tool.py"):
        raise error


def test_a_name_from_a_file_cannot_steer_the_terminal():
    text = sentence(ValueError("class '\x1b[2J\u202efdp.exe\x07é字' is unknown"))
    assert text == r"class '\x1b[2J\u202efdp.exe\x07é字' is unknown"
