#!/usr/bin/env python
"""Draw what a training run did: detections beside ground truth, and the curves of loss and AP.

Reads config.yaml, metrics.json and the last checkpoint of the run's output folder and writes
detections.png and curves.png there.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

from samdetr import visualize  # before Detectron2, whose import warns without its filters

# isort: split
from detectron2.config import instantiate
from detectron2.data import MetadataCatalog
from matplotlib.figure import Figure
from omegaconf import DictConfig

from convergence.curves import METRICS, read_rows
from samdetr.checkpoint import Checkpointer
from samdetr.engine import add_trust_option, build_model, load_config
from samdetr.errors import InputError, refusing


def held_out(cfg: DictConfig, count: int) -> list[dict]:
    """The first `count` images of the test set as the model gets them, with ground truth."""
    cfg.dataloader.test.mapper.is_train = True  # keeps the annotations
    mapper = instantiate(cfg.dataloader.test.mapper)
    return [mapper(x) for x in instantiate(cfg.dataloader.test.dataset)[:count]]


def report(folder: Path, count: int, threshold: float, trusted: bool) -> None:
    for name in ("config.yaml", METRICS, "last_checkpoint"):
        if not (folder / name).is_file():
            raise InputError(f"{folder / name} is missing: not the folder of a run")
    metrics = read_rows(folder / METRICS)
    cfg = load_config(str(folder / "config.yaml"), trusted=trusted)
    cfg.train.device = "cpu"  # wherever it was trained
    checkpoint = Checkpointer(build_model(cfg).eval(), str(folder))
    checkpoint.load(checkpoint.newest())
    metadata = MetadataCatalog.get(cfg.dataloader.test.dataset.names)
    figures = {
        "detections.png": visualize.draw_comparison(
            checkpoint.model, held_out(cfg, count), metadata, threshold
        ),
        "curves.png": plot_curves(metrics),
    }
    for name, figure in figures.items():
        figure.savefig(folder / name, dpi=100)
        print(folder / name)


def series(metrics: Iterable[dict[str, float]], name: str) -> tuple[list[float], list[float]]:
    """Return the iterations at which a metric was logged, and its values there."""
    pairs = [(x["iteration"], x[name]) for x in metrics if name in x]
    return [x for x, _ in pairs], [y for _, y in pairs]


def plot_curves(metrics: Sequence[dict[str, float]]) -> Figure:
    """Plot losses (left) and AP (right) over iterations, from the rows of a metrics.json."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, label in (
        ("total_loss", "total, all layers"),
        ("loss_ce", "class, last layer"),
        ("loss_bbox", "L1, last layer"),
        ("loss_giou", "GIoU, last layer"),
    ):
        left.plot(*series(metrics, name), label=label)
    left.set(xlabel="iteration", ylabel="weighted loss", yscale="log")
    for name in ("AP", "AP50", "AP75"):
        right.plot(*series(metrics, f"bbox/{name}"), marker="o", label=name)
    right.set(xlabel="iteration", ylabel="AP (%)", ylim=(0, 100))
    for axis in (left, right):
        axis.grid(alpha=0.3)
        axis.legend()
    return figure


@refusing("report.py")
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="train.output_dir of the run")
    parser.add_argument("--count", type=int, default=6, help="images to draw (default: 6)")
    parser.add_argument(
        "--threshold", type=float, default=0.4, help="lowest score drawn (default: 0.4)"
    )
    add_trust_option(parser)
    options = parser.parse_args(arguments)
    report(options.folder, options.count, options.threshold, options.trusted_config)


if __name__ == "__main__":
    main()
