"""tools/benchmark_data.py reads all boxes with both readers."""

from contextlib import redirect_stdout
from io import StringIO
from types import SimpleNamespace

from detectron2.data import DatasetCatalog, MetadataCatalog

import benchmark_data


def run_here(command, **options):
    """What each of the tool's processes does, in this one."""
    with redirect_stdout(StringIO()) as output:
        benchmark_data.main(list(map(str, command[2:])))
    if "boxes" in DatasetCatalog:
        DatasetCatalog.remove("boxes")
        MetadataCatalog.remove("boxes")
    return SimpleNamespace(stdout=output.getvalue())


def test_both_readers_read_all_boxes(capsys, monkeypatch):
    monkeypatch.setattr(benchmark_data.subprocess, "run", run_here)
    benchmark_data.main(["--images", "20", "--boxes", "60", "--rounds", "1"])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [(row[0], row[-2]) for row in rows[:2]] == [("detectron2", "60"), ("samdetr", "60")]
    assert rows[2][0] == "ratio"
