"""How a command ends: a sentence for what can be put right, a traceback for a fault of the code."""

import errno
import logging
import os
import sys

import pytest

from samdetr.data import DataError
from samdetr.errors import EXIT_CODE, SamdetrError, refusing, sentence

WORKER = """Caught DataError in DataLoader worker process 0.
Original Traceback (most recent call last):
  File "mapper.py", line 1, in __call__
samdetr.data.DataError: a.jpg has no pixels
  in its box
"""


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (DataError("a.txt has 3,\n  expected 4"), "a.txt has 3, expected 4"),
        (DataError(WORKER), "samdetr.data.DataError: a.jpg has no pixels in its box"),
        (DataError("WeightsUnpickler\x1b[1m error\x1b[0m:\nno"), "WeightsUnpickler error: no"),
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


@pytest.fixture
def gone(monkeypatch):
    """Both streams are a pipe that nobody reads any more, as behind `| head`."""
    reader, writer = os.pipe()
    os.close(reader)
    stream = os.fdopen(writer, "w")
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    yield
    monkeypatch.undo()
    stream.close()  # what Python does at exit


@pytest.mark.parametrize("count", [1, 100_000])
def test_a_command_goes_on_when_nobody_reads_its_output(gone, count):
    with refusing("tool.py"):
        handler = logging.StreamHandler(sys.stdout)
        for _ in range(3):
            print("x" * count)
            handler.emit(logging.makeLogRecord({"msg": "x" * count}))
            print("x" * count, file=sys.stderr)
        reached = True
    assert reached


def test_a_user_error_keeps_its_exit_code_when_nobody_reads_it(gone):
    with pytest.raises(SystemExit) as stopped, refusing("tool.py"):
        print("x" * 100_000)
        raise DataError("a.txt is empty")
    assert stopped.value.code == EXIT_CODE


def test_a_full_disk_is_no_closed_pipe(monkeypatch, capsys):
    class Full:
        def write(self, text):
            raise OSError(errno.ENOSPC, "No space left on device")

        def flush(self):
            pass

    monkeypatch.setattr(sys, "stdout", Full())
    with pytest.raises(SystemExit), refusing("tool.py"):
        print("x")
    assert "No space left" in capsys.readouterr().err
