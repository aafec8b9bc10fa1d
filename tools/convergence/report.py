"""Tables of the study's results, and verdicts on the paper's claims."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import NamedTuple

from samdetr.model_zoo import markdown_table

from .curves import Curve, steps_to_reach
from .results import Results, StudyError, Summary, summarize
from .variants import (
    COMPATIBILITY,
    DETR,
    FIGURE7,
    MAIN,
    PEERS,
    STATEMENTS,
    TABLE3,
    TABLE4,
    VARIANTS,
    Row,
    Statement,
)

LEVELS = (20, 40, 60)  # AP thresholds of the main table
SURE = 2.0  # standard errors above which a difference counts
HELD, FAILED, NOISE = "held", "did not hold", "within noise"
EMPTY = "–"  # a cell without a figure
BLOCK = r"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)"


class Verdict(NamedTuple):
    """Outcome of a claim.

    Fields:
        difference: final AP of `better` minus that of `worse`.
        error: standard error of the difference.
        outcome: HELD, FAILED or NOISE.
    """

    difference: float
    error: float
    outcome: str


class Report:
    """Tables of the docs page.

    Args:
        results: with at least one training of every variant.

    Raises:
        StudyError: if a variant has no training yet.
    """

    def __init__(self, results: Results):
        missing = [variant.name for variant in VARIANTS if not results.of(variant.name)]
        if missing:
            raise StudyError(f"no results yet of {', '.join(missing)}")
        self.results = results
        self.summaries = {
            variant.name: summarize(results.of(variant.name), variant.label) for variant in VARIANTS
        }

    @property
    def noise(self) -> float:
        """Standard deviation of the final AP between seeds, pooled over variants."""
        variances = [x.spread**2 for x in self.summaries.values() if x.spread is not None]
        if not variances:
            raise StudyError("no variant has more than one seed: the noise is unknown")
        return float(mean(variances) ** 0.5)

    def judge(self, statement: Statement) -> Verdict:
        """Compare two variants by their final AP."""
        better, worse = (self.summaries[name] for name in (statement.better, statement.worse))
        difference = better.ap - worse.ap
        error = self.noise * (1 / better.seeds + 1 / worse.seeds) ** 0.5
        outcome = NOISE
        if abs(difference) >= SURE * error:
            outcome = HELD if difference > 0 else FAILED
        return Verdict(difference, error, outcome)

    def tables(self) -> dict[str, str]:
        """Return the markdown of each block of the page, by name."""
        return {
            "main": self.main_table(),
            "statements": self.statements_table(),
            "table3": self.paper_table("row", TABLE3),
            "table4": self.paper_table("keypoints are searched", TABLE4),
            "figure7": self.paper_table("keypoints", FIGURE7),
            "compatibility": self.paper_table("model", COMPATIBILITY),
            "peers": self.paper_table("model", PEERS),
            "protocol": self.protocol(),
        }

    def main_table(self) -> str:
        """Format the variants with several seeds and when they reach DETR's final AP."""
        baseline = self.summaries[DETR]
        last = baseline.curve.steps[-1]
        header = ["model", "seeds", "AP", "AP50", "AP75"]
        header += [f"steps to AP {x}" for x in LEVELS] + ["steps to DETR's last AP", "ratio"]
        rows = []
        for variant in MAIN:
            summary = self.summaries[variant.name]
            # For DETR itself: the whole training, not the first crossing of its final value.
            curve = summary.curve
            reached = last if variant.name == DETR else steps_to_reach(curve, baseline.ap)
            sooner = reached is not None and reached <= curve.steps[0]
            rows.append(
                [
                    curve.label,
                    str(summary.seeds),
                    _ap(summary),
                    f"{summary.ap50:.1f}",
                    f"{summary.ap75:.1f}",
                    *(_steps(curve, steps_to_reach(curve, x)) for x in LEVELS),
                    _steps(curve, reached),
                    f"{'≥ ' * sooner}{last / reached:.1f}" if reached else EMPTY,
                ]
            )
        return markdown_table(header, rows)

    def paper_table(self, heading: str, rows: Sequence[Row]) -> str:
        """Format rows with our AP beside the paper's."""
        header = [heading, "AP (paper, COCO)", "AP", "AP50", "AP75", "seeds"]
        lines = []
        for row in rows:
            summary = self.summaries[row.name]
            paper = EMPTY if row.paper is None else f"{row.paper:.1f}"
            figures = [_ap(summary), f"{summary.ap50:.1f}", f"{summary.ap75:.1f}"]
            lines.append([row.label, paper, *figures, str(summary.seeds)])
        return markdown_table(header, lines)

    def statements_table(self) -> str:
        """Format every claim with its difference here and in the paper, and the verdict."""
        header = ("statement", "paper, COCO", "here", "standard error", "")
        lines = []
        for statement in STATEMENTS:
            verdict = self.judge(statement)
            paper = EMPTY if statement.paper is None else f"{statement.paper:+.1f}"
            figures = [f"{verdict.difference:+.1f}", f"{verdict.error:.1f}", verdict.outcome]
            lines.append([statement.text, paper, *figures])
        return markdown_table(header, lines)

    def protocol(self) -> str:
        """Describe the overrides, machine, commits and duration of the trainings."""
        runs = self.results.runs
        hours = sum(run.step_seconds * run.iterations[-1] for run in runs) / 3600
        return "\n".join(
            [
                f"- On top of each config: `{' '.join(self.results.protocol)}`.",
                f"- {len(runs)} trainings, {hours:.1f} hours of training steps on one thread each "
                f"({', '.join(sorted({run.machine for run in runs}))}).",
                f"- Commits: {', '.join(sorted({run.commit for run in runs}))}.",
                f"- Standard deviation of the final AP between seeds: {self.noise:.2f} (pooled).",
            ]
        )


def _ap(summary: Summary) -> str:
    spread = "" if summary.spread is None else f" ± {summary.spread:.1f}"
    return f"{summary.ap:.1f}{spread}"


def _steps(curve: Curve, steps: float | None) -> str:
    if steps is None:
        return EMPTY
    return f"{'≤ ' * (steps <= curve.steps[0])}{steps:.0f}"


def fill(page: str, tables: Mapping[str, str]) -> str:
    """Replace the text between `<!-- begin name -->` and `<!-- end name -->` by each table.

    Raises:
        StudyError: if the page does not have each pair once.
    """
    for name, table in tables.items():
        pattern = re.compile(BLOCK.format(name=re.escape(name)), re.DOTALL)
        # Backslashes are special in a replacement string.
        block = f"\n{table}\n\n".replace("\\", r"\\")
        page, count = pattern.subn(rf"\g<1>{block}\g<2>", page)
        if count != 1:
            raise StudyError(
                f"the page must have '<!-- begin {name} -->' and '<!-- end {name} -->' once, "
                f"it has them {count} times"
            )
    return page
