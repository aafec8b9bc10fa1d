"""Plots: figures 6 and 7 of the paper with the study's results, and curves of users' logs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from samdetr.visualize import Figure

from .curves import Curve, published_curves
from .results import Results, summarize
from .variants import FIGURE7, MAIN

SIZE = (7.2, 4.2)  # inches
# Published runs of figure 6, each for 12 and for 50 epochs, and the paper's names for them.
FIGURE6 = {
    "r50": "SAM-DETR",
    "r50_smca": "SAM-DETR w/ SMCA",
    "r50_ms": "SAM-DETR++",
    "r50_ms_smca": "SAM-DETR++ w/ SMCA",
}


def plot_curves(curves: Sequence[Curve], published: Sequence[Curve] = ()) -> Figure:
    """Plot AP over training, with published curves dashed and labelled as such.

    Args:
        curves: all in the same unit.
        published: in epochs, which `curves` must then use too.
    """
    figure = Figure(figsize=SIZE, layout="constrained")
    axis = figure.subplots()
    for curve in curves:
        axis.plot(curve.steps, curve.ap, marker="o", markersize=3, label=curve.label)
    for curve in published:
        axis.plot(curve.steps, curve.ap, linestyle="--", label=f"{curve.label} (published)")
    unit = [*curves, *published][0].unit
    axis.set(xlabel=f"{unit}s", ylabel="AP (%)", ylim=(0, None), xlim=(0, None))
    axis.grid(alpha=0.3)
    axis.legend(fontsize="small")
    return figure


def plot_published() -> Figure:
    """Plot figure 6 from the published curves of SAM-DETR and SAM-DETR++ on COCO."""
    curves = published_curves()
    figure = Figure(figsize=SIZE, layout="constrained")
    axis = figure.subplots()
    for name, label in FIGURE6.items():
        curve = curves[f"{name}_e12"]
        (line,) = axis.plot(curve.steps, curve.ap, label=f"{label}, 12 epochs")
        curve = curves[f"{name}_e50"]
        axis.plot(curve.steps, curve.ap, "--", color=line.get_color(), label=f"{label}, 50 epochs")
    axis.set(xlabel="epochs", ylabel="AP on COCO val2017 (%)", xlim=(0, 50), ylim=(0, 50))
    axis.set_title("as published with the official code; not measured here", fontsize="medium")
    axis.grid(alpha=0.3)
    axis.legend(fontsize="small", loc="lower right")
    return figure


def plot_figure6(results: Results) -> Figure:
    """Plot the mean AP of the main variants over steps, with the range over seeds shaded."""
    figure = Figure(figsize=SIZE, layout="constrained")
    axis = figure.subplots()
    for variant in MAIN:
        runs = results.of(variant.name)
        curve = summarize(runs, variant.label).curve
        (line,) = axis.plot(curve.steps, curve.ap, marker="o", markersize=3, label=curve.label)
        values = [*zip(*(run.AP for run in runs))]
        lowest, highest = [min(x) for x in values], [max(x) for x in values]
        axis.fill_between(curve.steps, lowest, highest, color=line.get_color(), alpha=0.2)
    axis.set(xlabel="steps", ylabel="AP on mini_val (%)", ylim=(0, 100), xlim=(0, None))
    axis.grid(alpha=0.3)
    axis.legend(fontsize="small", loc="upper left")
    return figure


def plot_figure7(results: Results) -> Figure:
    """Plot final AP by number of keypoints, with whiskers of two standard deviations over seeds."""
    figure = Figure(figsize=(4.8, 3.4), layout="constrained")
    axis = figure.subplots()
    summaries = [summarize(results.of(row.name), row.label) for row in FIGURE7]
    counts = [int(row.label) for row in FIGURE7]
    axis.plot(counts, [x.ap for x in summaries], marker="o", label="mini_val")
    for count, summary in zip(counts, summaries):
        if summary.spread is not None:
            axis.errorbar(count, summary.ap, 2 * summary.spread, color="black", capsize=3)
    axis.set(xscale="log", xlabel="keypoints per query", ylabel="AP on mini_val (%)")
    axis.set_xticks(counts, [str(count) for count in counts])
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    return figure


def study_figures(results: Results) -> Mapping[str, Figure]:
    """Return the figures of the docs page by the suffix of their file name."""
    return {
        "figure6": plot_figure6(results),
        "figure7": plot_figure7(results),
        "published": plot_published(),
    }
