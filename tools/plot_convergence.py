#!/usr/bin/env python
"""Plot AP over training: your logs beside the published curves, or figures of the study.

Reads Detectron2's metrics.json and the line-JSON of DETR-style code (log.txt with
test_coco_eval_bbox), given as a file or as the folder that contains it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from matplotlib.backend_bases import FigureCanvasBase

from convergence import plots
from convergence.curves import LogError, find_published, published_curves, read_curve
from convergence.results import load_results
from samdetr.errors import check_writable, refusing

ROOT = Path(__file__).resolve().parents[1]
STUDY = {"6": plots.plot_figure6, "7": plots.plot_figure7}
EPILOG = """
examples:
  tools/plot_convergence.py out.png --logs output/sam_detr_r50_smca_12ep \\
      --iterations-per-epoch 7393 --published r50_smca_e12 r50_e12
  tools/plot_convergence.py out.png --logs run1/metrics.json run2/log.txt --labels ours theirs \\
      --iterations-per-epoch 7393
  tools/plot_convergence.py figure6.png --figure 6
"""


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("output", type=Path, help="picture to write: .png, .svg, .pdf")
    add("--logs", nargs="+", type=Path, default=[], metavar="PATH", help="files or folders")
    add("--labels", nargs="+", metavar="TEXT", help="labels of the logs (default: folder names)")
    add(
        "--published",
        nargs="+",
        default=[],
        metavar="NAME",
        help=f"published runs on COCO: {', '.join(published_curves())}",
    )
    add(
        "--iterations-per-epoch",
        type=int,
        metavar="N",
        help="convert iterations to epochs (COCO with batches of 16: 7393)",
    )
    add(
        "--figure",
        choices=STUDY,
        help="plot this figure of the paper from the study's results instead",
    )
    add(
        "--results",
        type=Path,
        default=ROOT / "docs/convergence.json",
        help="results file for --figure (default: docs/convergence.json)",
    )
    return parser


def draw(options: argparse.Namespace) -> plots.Figure:
    """Draw the figure that the options ask for."""
    if options.figure:
        return STUDY[options.figure](load_results(options.results))
    labels = options.labels or [""] * len(options.logs)
    curves = [read_curve(path, label) for path, label in zip(options.logs, labels)]
    published = find_published(options.published)
    if options.iterations_per_epoch:
        curves = [curve.per_epoch(options.iterations_per_epoch) for curve in curves]
    if len({curve.unit for curve in [*curves, *published]}) > 1:
        raise LogError(
            "some curves count iterations, some epochs: convert them by --iterations-per-epoch"
        )
    return plots.plot_curves(curves, published)


@refusing("plot_convergence.py")
def main(arguments: list[str] | None = None) -> None:
    parser = argument_parser()
    options = parser.parse_args(arguments)
    if not (options.logs or options.published or options.figure):
        parser.error("nothing to draw: give --logs, --published or --figure")
    if options.labels and len(options.labels) != len(options.logs):
        parser.error(f"{len(options.labels)} --labels for {len(options.logs)} --logs")
    if options.iterations_per_epoch is not None and options.iterations_per_epoch < 1:
        parser.error(f"--iterations-per-epoch is {options.iterations_per_epoch}, must be positive")
    formats = FigureCanvasBase.get_supported_filetypes()
    if options.output.suffix.removeprefix(".") not in formats:
        parser.error(f"{options.output} must end in one of .{', .'.join(formats)}")
    check_writable(options.output)
    draw(options).savefig(options.output, dpi=100)
    print(options.output)


if __name__ == "__main__":
    main()
