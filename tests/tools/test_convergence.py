"""The convergence study: curves, results file, verdicts and tables."""

import json
from pathlib import Path

import pytest

from convergence import report, results
from convergence.curves import (
    Curve,
    read_curve,
    steps_to_reach,
)
from convergence.results import Results, Run, add_run, load_results
from convergence.variants import DETR, VARIANTS, Statement

ROOT = Path(__file__).parents[2]
PROTOCOL = ("train.max_iter=4",)


def make_run(name="sam_detr", seed=0, ap=50.0, **fields):
    """Training whose AP rises linearly to `ap` over four evaluations."""
    rising = [ap * x / 4 for x in range(1, 5)]
    given = {"commit": "abc", "machine": "cpu", "step_seconds": 0.25} | fields
    return Run(name, seed, iterations=[1, 2, 3, 4], AP=rising, AP50=rising, AP75=rising, **given)


def make_results(aps=None):
    """All trainings of the study: final AP from `aps` or 50, plus 1 per seed."""
    runs = [
        make_run(variant.name, seed, (aps or {}).get(variant.name, 50.0) + seed)
        for variant in VARIANTS
        for seed in range(variant.seeds)
    ]
    return Results(PROTOCOL, tuple(runs))


def write_lines(path, rows):
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


# Curves


def test_an_ap_is_reached_on_the_line_between_two_evaluations():
    curve = Curve("x", [100, 200, 300], [10.0, 30.0, 20.0])
    assert steps_to_reach(curve, 5.0) == 100  # at most the step of the first evaluation
    assert steps_to_reach(curve, 10.0) == 100
    assert steps_to_reach(curve, 25.0) == 175
    assert steps_to_reach(curve, 30.0) == 200
    assert steps_to_reach(curve, 31.0) is None


def test_the_log_of_detectron2_is_a_curve_over_iterations(tmp_path):
    rows = [
        {"iteration": 19, "total_loss": 3.0},
        {"iteration": 99, "total_loss": 2.0, "bbox/AP": 12.5},
        {"iteration": 199, "total_loss": 1.0},
        {"iteration": 200, "bbox/AP": 25.0},  # as Detectron2 counts the last one
    ]
    write_lines(tmp_path / "metrics.json", rows)
    curve = read_curve(tmp_path)
    assert curve == Curve(tmp_path.name, [100, 200], [12.5, 25.0], "iteration")
    assert curve.per_epoch(50) == Curve(tmp_path.name, [2, 4], [12.5, 25.0], "epoch")


# Variants


# Results


def test_results_are_kept_with_those_that_are_there(tmp_path):
    file = tmp_path / "new" / "results.json"
    first, second = make_run(seed=1), make_run(seed=0, ap=40.0)
    add_run(file, PROTOCOL, first)
    add_run(file, PROTOCOL, second)
    found = load_results(file, PROTOCOL)
    assert found.of("sam_detr") == [second, first]
    assert found.has("sam_detr", 1) and not found.has("sam_detr", 2) and not found.has("detr", 0)
    assert found.protocol == PROTOCOL
    add_run(file, PROTOCOL, first._replace(commit="later"))
    assert [run.commit for run in load_results(file).of("sam_detr")] == ["abc", "later"]


def test_a_finished_training_is_read_from_its_metrics():
    rows = [
        {"iteration": 1, "time": 0.2},
        {"iteration": 1, "bbox/AP": 1.0, "bbox/AP50": 2.0, "bbox/AP75": 3.0},
        {"iteration": 3, "time": 0.4, "total_loss": 1.0},
        {"iteration": 4, "bbox/AP": 4.0, "bbox/AP50": 5.0, "bbox/AP75": 6.0},
    ]
    run = results.run_from_metrics(rows, name="detr", seed=2, commit="abc", machine="cpu")
    assert run == Run("detr", 2, "abc", "cpu", 0.3, [2, 4], [1.0, 4.0], [2.0, 5.0], [3.0, 6.0])


# Report


def test_a_difference_counts_if_it_is_larger_than_chance():
    statement = Statement("x", "sam_detr", "detr", None)  # 3 seeds and 1
    # Seeds are 1 AP apart, so their deviation is 1 and the error of the difference sqrt(4 / 3).
    error = (1 + 1 / 3) ** 0.5
    for difference, outcome in [
        (2.1 * error, report.HELD),
        (1.9 * error, report.NOISE),
        (-1.9 * error, report.NOISE),
        (-2.1 * error, report.FAILED),
    ]:
        found = report.Report(make_results({"sam_detr": 49.0, "detr": 50.0 - difference}))
        verdict = found.judge(statement)
        assert verdict.outcome == outcome
        assert (verdict.difference, verdict.error) == pytest.approx((difference, error))


def test_the_ratio_is_that_of_the_steps_to_the_baselines_last_ap():
    table = report.Report(make_results({DETR: 9.0, "sam_detr": 39.0})).main_table()
    cells = {x[0]: x for line in table.splitlines() if (x := line.strip("| ").split(" | "))}
    cells = {name.strip(): [x.strip() for x in row] for name, row in cells.items()}
    # DETR ends with 10 after 4 steps, SAM-DETR with 40: it has 10 after one.
    assert cells["DETR"][-2:] == ["4", "1.0"]
    assert cells["SAM-DETR"][2] == "40.0 ± 1.0"
    assert cells["SAM-DETR"][-2:] == ["≤ 1", "≥ 4.0"]
    # SAM-DETR++ ends with 51: it has 10 at its first evaluation too, and 20 between two of them.
    assert float(cells["SAM-DETR++"][5]) == round(1 + (20 - 51 / 4) / (51 / 4))


def test_the_page_has_the_figures_of_the_results_file():
    page = (ROOT / "docs/convergence.md").read_text()
    tables = report.Report(load_results(ROOT / "docs/convergence.json")).tables()
    assert report.fill(page, tables) == page
