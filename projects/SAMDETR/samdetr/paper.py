"""Figures of tables 1 and 2 of the paper, by config."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class PaperRow(NamedTuple):
    """A row of table 1 (12 epochs) or table 2 (50 epochs), and the config that makes it."""

    name: str
    config: str
    ap: float
    parameters: int  # millions
    gflops: int


PAPER = (
    PaperRow("Faster-R-CNN-R50", "faster_rcnn_r50_c4_12ep", 35.7, 34, 547),
    PaperRow("DETR-R50 ‡", "detr_r50_12ep", 22.3, 41, 86),
    PaperRow("Conditional-DETR-R50", "conditional_detr_r50_12ep", 32.2, 44, 90),
    PaperRow("SMCA-DETR-R50", "smca_detr_r50_12ep", 31.6, 42, 86),
    PaperRow("SAM-DETR-R50", "sam_detr_r50_12ep", 34.2, 57, 107),
    PaperRow("SAM-DETR-R50 w/ SMCA", "sam_detr_r50_smca_12ep", 37.0, 57, 107),
    PaperRow("Faster-R-CNN-R50-DC5", "faster_rcnn_r50_dc5_12ep", 37.3, 166, 320),
    PaperRow("DETR-R50-DC5 ‡", "detr_r50_dc5_12ep", 25.9, 41, 187),
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
    PaperRow("DETR-R50 ‡", "detr_r50_50ep", 34.9, 41, 86),
    PaperRow("DETR-R50-DC5 ‡", "detr_r50_dc5_50ep", 36.7, 41, 187),
    PaperRow("SAM-DETR++-R50", "sam_detr_pp_r50_50ep", 47.5, 55, 203),
    PaperRow("SAM-DETR++-R50 w/ SMCA", "sam_detr_pp_r50_smca_50ep", 48.0, 55, 203),
    PaperRow("SAM-DETR++-R50 w/ SMCA + DN", "sam_detr_pp_r50_smca_dn_50ep", 49.1, 55, 203),
)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table that is also legible as it is."""
    widths = [max(map(len, column)) for column in zip(header, *rows)]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join(
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths))} |"
        for line in lines
    )
