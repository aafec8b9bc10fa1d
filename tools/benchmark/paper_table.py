"""Parameters and GFLOPs of our models beside tables 1 and 2 of the paper."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from samdetr.engine import load_config
from samdetr.model_zoo import PAPER, PaperRow, markdown_table

from .flops import COCO_SIZES, analyze, build

NOTES = """\
AP and the columns marked "paper" are quoted. M: millions of trainable parameters for 80 classes;
with the 91 classes of the official code SAM-DETR has 58,074,058 and SAM-DETR++ 54,972,298, equal to
that code. GFLOPs: 1e9 multiply-adds per image at inference, mean over images of
{sizes} pixels; the paper's are means over images of COCO.
Figures in the notes below are for the default sizes.

- DETR: the paper's baseline has 300 queries, but it prints the figures of the original with 100.
  With 100 queries ours has 86.3 GFLOPs, and 186.0 with DC5.
- Single-scale SAM-DETR: the paper prints 57M parameters where its code has 58M, and 107 and 229
  GFLOPs where we count less for a model equal to that code weight by weight. The gap is 4 million
  multiply-adds per token. Concatenating content and position in cross-attention, as in Conditional
  DETR, instead of adding them, as in the released code, costs 3.7 million more (6 layers x 8 heads
  x 300 queries x 256 channels) and would give 104.7 and 226.4 GFLOPs (-2.1% and -1.1%), so the
  printed figures are probably of such a version. Those of SAM-DETR++ agree with the sum.
- Conditional, DAB- and DN-DETR have 43M parameters, as in the package `transformers`.
- DAB- and DN-DETR: 216 in table 2 of the paper is DAB-DETR with 3 patterns per query; with one
  pattern, as here, the paper has 202 for both.
- Faster R-CNN with C4 and DC5: ours processes 1000 proposals, more than real images may yield.
- Cascade R-CNN and FCOS: the paper's figures fit 800 x 1280 pixels, where ours are 229.9 and 200.0.
"""


def paper_table(folder: Path, sizes: Sequence[tuple[int, int]] = COCO_SIZES) -> str:
    """Format tables 1 and 2 of the paper beside our models as markdown, with notes.

    Args:
        folder: folder of the configs.
        sizes: see `analyze`.
    """
    header = ("config", "row", "AP (paper)", "M (paper)", "M", "GFLOPs (paper)", "GFLOPs", "")
    table = markdown_table(header, [_paper_row(row, folder, sizes) for row in PAPER])
    return f"{table}\n\n{NOTES.format(sizes=' and '.join(f'{x} x {y}' for x, y in sizes))}".rstrip()


def _paper_row(row: PaperRow, folder: Path, sizes: Sequence[tuple[int, int]]) -> tuple[str, ...]:
    path = folder / f"{row.config}.py"
    ours: tuple[str, ...] = ("no config", "", "")
    if path.is_file():
        total = analyze(build(load_config(str(path)).model), sizes).total
        gflops = total.flops / 1e9
        difference = f"{gflops / row.gflops - 1:+.1%}"
        ours = (f"{total.parameters / 1e6:.2f}", f"{gflops:.1f}", difference)
    paper = (row.config, row.name, f"{row.ap}", f"{row.parameters}")
    return (*paper, ours[0], f"{row.gflops}", *ours[1:])
