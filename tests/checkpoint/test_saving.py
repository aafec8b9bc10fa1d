"""The checkpoints of a folder: which one a run goes on from."""

import logging

import pytest

from samdetr.checkpoint import Checkpointer, damage_of
from toy import ToyModel


@pytest.fixture
def checkpointer(tmp_path):
    """Of a folder with checkpoints of iterations 2, 5 and 8."""
    found = Checkpointer(ToyModel(), str(tmp_path))
    for iteration in (8, 2, 5):
        found.save(f"model_{iteration:07}", iteration=iteration)
    return found


def damage(path):
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"\0\xff")
    assert damage_of(path) == "is damaged (its checksum differs)"


def test_the_checkpoint_that_is_named_is_the_newest_if_it_is_whole(checkpointer, tmp_path):
    assert checkpointer.newest() == str(tmp_path / "model_0000005.pth")
    assert [int(x[-11:-4]) for x in checkpointer.numbered()] == [2, 5, 8]


def test_in_place_of_a_damaged_one_is_the_one_before_and_none_of_later(
    checkpointer, tmp_path, caplog
):
    # The later one is of a run that this one has gone back behind.
    damage(tmp_path / "model_0000005.pth")
    checkpointer.logger = logging.getLogger("samdetr")
    with caplog.at_level("WARNING", "samdetr"):
        assert checkpointer.newest() == str(tmp_path / "model_0000002.pth")
    (record,) = caplog.records
    assert "model_0000005.pth is damaged" in record.getMessage()

    damage(tmp_path / "model_0000002.pth")
    with pytest.raises(OSError, match="no checkpoint that is whole: .*5.pth is damaged"):
        checkpointer.newest()


def test_in_place_of_a_damaged_final_one_is_the_last_of_an_iteration(checkpointer, tmp_path):
    checkpointer.save("model_final")
    damage(tmp_path / "model_final.pth")
    assert checkpointer.newest() == str(tmp_path / "model_0000008.pth")
