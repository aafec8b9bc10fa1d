"""tools/benchmark_data.py reads all boxes with both readers."""

import pytest

import benchmark_data

pytestmark = pytest.mark.slow


def test_both_readers_read_all_boxes(capsys):
    benchmark_data.main(["--images", "20", "--boxes", "60", "--rounds", "1"])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [(row[0], row[-2]) for row in rows[:2]] == [("detectron2", "60"), ("samdetr", "60")]
    assert rows[2][0] == "ratio"
