"""Commands of the convergence study: plots, arguments, trainings that fail or resume."""

import pytest
from test_convergence import PROTOCOL, make_results

import convergence_study
from convergence import report, study
from convergence.results import StudyError, add_run, load_results


def test_report_makes_page_and_plots_from_the_results_alone(tmp_path, monkeypatch):
    file, page = tmp_path / "results.json", tmp_path / "page.md"
    for run in make_results().runs:
        add_run(file, PROTOCOL, run)
    names = report.Report(make_results()).tables()
    page.write_text("".join(f"<!-- begin {x} -->\n<!-- end {x} -->\n" for x in names))
    convergence_study.main(["--report", "--results", str(file), "--page", str(page)])
    assert page.read_text().count("SAM-DETR w/ SMCA") > 3
    for name in ("figure6", "figure7", "published"):
        assert (tmp_path / f"page_{name}.png").read_bytes().startswith(b"\x89PNG")


# Plots


# The tool


def test_a_training_that_fails_is_reported_after_the_others(tmp_path, monkeypatch):
    root = tmp_path / "root"
    root.mkdir()
    script = """import json, pathlib, sys
assert "--resume" in sys.argv
values = dict(x.split("=", 1) for x in sys.argv if "=" in x)
if values["train.seed"] == "1":
    sys.exit("this one fails")
row = {"iteration": 3, "time": 0.1, "bbox/AP": 7.0, "bbox/AP50": 8.0, "bbox/AP75": 9.0}
pathlib.Path(values["train.output_dir"], "metrics.json").write_text(json.dumps(row) + "\\n")
"""
    (root / "train_net.py").write_text(script)
    toy = study.Study(root, tmp_path / "output", tmp_path / "results.json", PROTOCOL)
    trainings = [study.Training("detr", seed) for seed in range(3)]
    said: list[str] = []
    with pytest.raises(StudyError, match=r"(?s)detr seed 1: failed.*this one fails"):
        study.run_all(toy, trainings, 1, said.append)
    assert [run.seed for run in load_results(toy.results).of("detr")] == [0, 2]
    # A finished training is not repeated, even if it is not in the results file.
    toy.results.unlink()
    (root / "train_net.py").write_text("raise SystemExit('not again')")
    assert study.train(toy, trainings[0]).AP == [7.0]
    with pytest.raises(StudyError, match="has a training of"):
        study.train(toy._replace(protocol=("other",)), trainings[0])
