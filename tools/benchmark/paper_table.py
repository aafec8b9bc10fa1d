"""Parameters and GFLOPs of our models beside tables 1 and 2 of the paper."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from samdetr.engine import load_config
from samdetr.model_zoo import markdown_table

from .flops import COCO_SIZES, analyze, build


class PaperRow(NamedTuple):
    """A row of table 1 (12 epochs) or table 2 (longer) of the paper, and the config for it."""

    name: str
    config: str
    ap: float
    parameters: int  # millions
    gflops: int


PAPER = (
    PaperRow("Faster-R-CNN-R50", "faster_rcnn_r50_c4_12ep", 35.7, 34, 547),
    PaperRow("DETR-R50 ‡", "detr_r50_12ep", 22.3, 41, 86),
    PaperRow("Deformable-DETR-R50", "deformable_detr_r50_ss_12ep", 31.8, 34, 78),
    PaperRow("Conditional-DETR-R50", "conditional_detr_r50_12ep", 32.2, 44, 90),
    PaperRow("SMCA-DETR-R50", "smca_detr_r50_12ep", 31.6, 42, 86),
    PaperRow("SAM-DETR-R50", "sam_detr_r50_12ep", 34.2, 57, 107),
    PaperRow("SAM-DETR-R50 w/ SMCA", "sam_detr_r50_smca_12ep", 37.0, 57, 107),
    PaperRow("Faster-R-CNN-R50-DC5", "faster_rcnn_r50_dc5_12ep", 37.3, 166, 320),
    PaperRow("DETR-R50-DC5 ‡", "detr_r50_dc5_12ep", 25.9, 41, 187),
    PaperRow("Deformable-DETR-R50-DC5", "deformable_detr_r50_dc5_12ep", 34.9, 34, 128),
    PaperRow("Conditional-DETR-R50-DC5", "conditional_detr_r50_dc5_12ep", 35.9, 44, 195),
    PaperRow("SMCA-DETR-R50-DC5", "smca_detr_r50_dc5_12ep", 32.5, 42, 187),
    PaperRow("DAB-DETR-R50-DC5", "dab_detr_r50_dc5_12ep", 38.0, 44, 216),
    PaperRow("DN-DETR-R50-DC5", "dn_detr_r50_dc5_12ep", 41.7, 44, 216),
    PaperRow("SAM-DETR-R50-DC5", "sam_detr_r50_dc5_12ep", 39.1, 57, 229),
    PaperRow("SAM-DETR-R50-DC5 w/ SMCA", "sam_detr_r50_dc5_smca_12ep", 41.3, 57, 229),
    PaperRow("SAM-DETR-R50-DC5 w/ DN", "sam_detr_r50_dc5_dn_12ep", 42.3, 57, 229),
    PaperRow("SAM-DETR-R50-DC5 w/ SMCA + DN", "sam_detr_r50_dc5_smca_dn_12ep", 43.7, 57, 229),
    PaperRow("Faster-R-CNN-R50-FPN", "faster_rcnn_r50_fpn_12ep", 37.9, 42, 180),
    PaperRow("Cascade-R-CNN-R50-FPN", "cascade_rcnn_r50_fpn_12ep", 40.4, 69, 230),
    PaperRow("FCOS-R50", "fcos_r50_fpn_12ep", 38.6, 32, 201),
    PaperRow("Deformable-DETR-R50", "deformable_detr_r50_12ep", 37.2, 40, 173),
    PaperRow("SAM-DETR++-R50", "sam_detr_pp_r50_12ep", 41.9, 55, 203),
    PaperRow("SAM-DETR++-R50 w/ SMCA", "sam_detr_pp_r50_smca_12ep", 43.2, 55, 203),
    PaperRow("SAM-DETR++-R50 w/ SMCA + DN", "sam_detr_pp_r50_smca_dn_12ep", 44.8, 55, 203),
    PaperRow("Faster-R-CNN-R50-FPN", "faster_rcnn_r50_fpn_108ep", 42.0, 42, 180),
    PaperRow("DETR-R50", "detr_r50_500ep", 42.0, 41, 86),
    PaperRow("DETR-R50-DC5", "detr_r50_dc5_500ep", 43.3, 41, 187),
    PaperRow("DETR-R50 ‡", "detr_r50_50ep", 34.9, 41, 86),
    PaperRow("DETR-R50-DC5 ‡", "detr_r50_dc5_50ep", 36.7, 41, 187),
    PaperRow("Deformable-DETR-R50", "deformable_detr_r50_50ep", 43.8, 40, 173),
    PaperRow("Conditional-DETR-R50", "conditional_detr_r50_50ep", 40.9, 44, 90),
    PaperRow("Conditional-DETR-R50", "conditional_detr_r50_108ep", 43.0, 44, 90),
    PaperRow("Conditional-DETR-R50-DC5", "conditional_detr_r50_dc5_50ep", 43.8, 44, 195),
    PaperRow("Conditional-DETR-R50-DC5", "conditional_detr_r50_dc5_108ep", 45.1, 44, 195),
    PaperRow("DAB-DETR-R50", "dab_detr_r50_50ep", 42.2, 44, 94),
    PaperRow("DAB-DETR-R50-DC5", "dab_detr_r50_dc5_50ep", 44.5, 44, 202),
    PaperRow("DAB-DETR-R50-DC5 (3 Patterns)", "dab_detr_r50_dc5_3pat_50ep", 45.7, 44, 216),
    PaperRow("DN-DETR-R50", "dn_detr_r50_50ep", 44.1, 44, 94),
    PaperRow("DN-DETR-R50-DC5", "dn_detr_r50_dc5_50ep", 46.3, 44, 202),
    PaperRow("SAM-DETR++-R50", "sam_detr_pp_r50_50ep", 47.5, 55, 203),
    PaperRow("SAM-DETR++-R50 w/ SMCA", "sam_detr_pp_r50_smca_50ep", 48.0, 55, 203),
    PaperRow("SAM-DETR++-R50 w/ SMCA + DN", "sam_detr_pp_r50_smca_dn_50ep", 49.1, 55, 203),
)

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
- DAB- and DN-DETR: for 12 epochs the paper prints 216, in table 2 the figure of DAB-DETR with 3
  patterns per reference box; with one pattern, as here, that table has 202 for both.
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
