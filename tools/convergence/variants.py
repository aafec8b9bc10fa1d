"""Variants of the study (configs under `configs/mini`) and the claims that compare them.

The paper's figures are AP on COCO val2017 after 12 epochs, from tables 1, 3 and 4.
"""

from __future__ import annotations

from typing import NamedTuple

# Overrides for every variant. A training takes at most 12 minutes on one core; the strongest
# variant ends above AP 70.
PROTOCOL = (
    "train.max_iter=1600",
    "train.eval_period=200",
    "train.checkpointer.period=200",
    "train.checkpointer.max_to_keep=1",
    "dataloader.train.total_batch_size=8",
    "dataloader.train.num_workers=0",
    "dataloader.test.num_workers=0",
)

DETR = "ablations/table3_row1_detr"
UNALIGNED = "ablations/table3_row9_multi_scale_unaligned"


class Variant(NamedTuple):
    """A config of the study.

    Fields:
        name: path under `configs/mini`, without suffix.
        label: in tables and plots.
        seeds: number of trainings, with seeds 0, 1, ...
    """

    name: str
    label: str
    seeds: int = 1


VARIANTS = (
    Variant(DETR, "DETR", 3),
    Variant("sam_detr", "SAM-DETR", 3),
    Variant("sam_detr_smca", "SAM-DETR w/ SMCA", 3),
    Variant("sam_detr_smca_dn", "SAM-DETR w/ SMCA + DN", 3),
    Variant(UNALIGNED, "multi-scale, no aligner", 3),
    Variant("sam_detr_pp", "SAM-DETR++", 3),
    Variant("ablations/table3_row2_average", "average"),
    Variant("ablations/table3_row3_max", "max"),
    Variant("ablations/table3_row4_keypoint", "1 keypoint"),
    Variant("ablations/table3_row5_keypoint_reweighting", "1 keypoint, reweighting"),
    Variant("ablations/table3_row6_keypoints", "8 keypoints"),
    Variant("ablations/table3_row7_keypoints_reweighting", "8 keypoints, reweighting"),
    Variant("ablations/table4_row2_image", "keypoints anywhere in the image"),
    Variant("ablations/figure7_2_keypoints", "2 keypoints"),
    Variant("ablations/figure7_4_keypoints", "4 keypoints"),
    Variant("ablations/figure7_16_keypoints", "16 keypoints"),
    Variant("sam_detr_dn", "SAM-DETR w/ DN"),
    Variant("sam_detr_pp_smca", "SAM-DETR++ w/ SMCA"),
    Variant("sam_detr_pp_smca_dn", "SAM-DETR++ w/ SMCA + DN"),
    Variant("detr", "DETR without dropout"),
    Variant("smca_detr", "SMCA-DETR"),
    Variant("conditional_detr", "Conditional DETR"),
    Variant("dab_detr", "DAB-DETR"),
    Variant("dn_detr", "DN-DETR"),
    Variant("deformable_detr", "Deformable DETR"),
)
MAIN = tuple(variant for variant in VARIANTS if variant.seeds > 1)


class Row(NamedTuple):
    """Row of a table: its label, the variant, and the paper's AP if there is one."""

    label: str
    name: str
    paper: float | None = None


TABLE3 = (
    Row("1: DETR", DETR, 22.3),
    Row("2: average of the region", "ablations/table3_row2_average", 25.2),
    Row("3: maximum of the region", "ablations/table3_row3_max", 27.0),
    Row("4: 1 keypoint", "ablations/table3_row4_keypoint", 28.6),
    Row("5: 1 keypoint, reweighting", "ablations/table3_row5_keypoint_reweighting", 30.3),
    Row("6: 8 keypoints", "ablations/table3_row6_keypoints", 32.0),
    Row("7: 8 keypoints, reweighting", "ablations/table3_row7_keypoints_reweighting", 33.1),
    Row("8: and no dropout", "sam_detr", 34.2),
    Row("9: row 1, multi-scale", UNALIGNED, 29.1),
    Row("10: row 8, multi-scale", "sam_detr_pp", 41.9),
)
TABLE4 = (
    Row("within the reference box", "ablations/table3_row7_keypoints_reweighting", 33.1),
    Row("within the image", "ablations/table4_row2_image", 30.0),
)
FIGURE7 = (
    Row("1", "ablations/table3_row5_keypoint_reweighting"),
    Row("2", "ablations/figure7_2_keypoints"),
    Row("4", "ablations/figure7_4_keypoints"),
    Row("8", "ablations/table3_row7_keypoints_reweighting"),
    Row("16", "ablations/figure7_16_keypoints"),
)
# The paper's single-scale figures are for R50; it has rows with DN for R50-DC5 alone.
COMPATIBILITY = (
    Row("SAM-DETR", "sam_detr", 34.2),
    Row("SAM-DETR w/ SMCA", "sam_detr_smca", 37.0),
    Row("SAM-DETR w/ DN", "sam_detr_dn"),
    Row("SAM-DETR w/ SMCA + DN", "sam_detr_smca_dn"),
    Row("SAM-DETR++", "sam_detr_pp", 41.9),
    Row("SAM-DETR++ w/ SMCA", "sam_detr_pp_smca", 43.2),
    Row("SAM-DETR++ w/ SMCA + DN", "sam_detr_pp_smca_dn", 44.8),
)
PEERS = (
    Row("DETR", DETR, 22.3),
    Row("DETR without dropout", "detr"),
    Row("SMCA-DETR", "smca_detr", 31.6),
    Row("Conditional DETR", "conditional_detr", 32.2),
    Row("DAB-DETR", "dab_detr"),
    Row("DN-DETR", "dn_detr"),
    Row("Deformable DETR", "deformable_detr", 37.2),
    Row("SAM-DETR", "sam_detr", 34.2),
    Row("SAM-DETR++", "sam_detr_pp", 41.9),
)


class Statement(NamedTuple):
    """A claim of the paper that one variant is better than another.

    Fields:
        text: the claim.
        better, worse: names of variants.
        paper: difference in AP in the paper; None if it gives no figures.
    """

    text: str
    better: str
    worse: str
    paper: float | None


STATEMENTS = (
    Statement("The aligner lets DETR converge faster: SAM-DETR over DETR", "sam_detr", DETR, 11.9),
    Statement("... even with the average of the region", TABLE3[1].name, DETR, 2.9),
    Statement("... or its maximum", TABLE3[2].name, DETR, 4.7),
    Statement("The maximum is better than the average", TABLE3[2].name, TABLE3[1].name, 1.8),
    Statement("One keypoint is better than the maximum", TABLE3[3].name, TABLE3[2].name, 1.6),
    Statement("Eight keypoints are better than one", TABLE3[5].name, TABLE3[3].name, 3.4),
    Statement("... also with reweighting", TABLE3[6].name, TABLE3[4].name, 2.8),
    Statement("Eight keypoints are better than four", FIGURE7[3].name, FIGURE7[2].name, None),
    Statement("Sixteen are no better than eight", FIGURE7[3].name, FIGURE7[4].name, None),
    Statement("Keypoints should stay within the box", TABLE4[0].name, TABLE4[1].name, 3.1),
    Statement("Reweighting helps one keypoint", TABLE3[4].name, TABLE3[3].name, 1.7),
    Statement("... and eight", TABLE3[6].name, TABLE3[5].name, 1.1),
    Statement("Dropout is in the way", "sam_detr", TABLE3[6].name, 1.1),
    Statement("Multi-scale fusion helps with the aligner", "sam_detr_pp", "sam_detr", 7.7),
    Statement("Multi-scale fusion needs the aligner", "sam_detr_pp", UNALIGNED, 12.8),
    Statement("SMCA adds to SAM-DETR", "sam_detr_smca", "sam_detr", 2.8),
    Statement("... and to SAM-DETR++", "sam_detr_pp_smca", "sam_detr_pp", 1.3),
    Statement("DN adds to SAM-DETR (paper: DC5)", "sam_detr_dn", "sam_detr", 3.2),
    Statement("... to that w/ SMCA (paper: DC5)", "sam_detr_smca_dn", "sam_detr_smca", 2.4),
    Statement("... to SAM-DETR++ w/ SMCA", "sam_detr_pp_smca_dn", "sam_detr_pp_smca", 1.6),
    Statement("SAM-DETR is ahead of SMCA-DETR", "sam_detr", "smca_detr", 2.6),
    Statement("... of Conditional DETR", "sam_detr", "conditional_detr", 2.0),
    Statement("... of DAB-DETR (paper: DC5)", "sam_detr", "dab_detr", 1.1),
    Statement("... w/ DN, of DN-DETR (paper: DC5)", "sam_detr_dn", "dn_detr", 0.6),
    Statement("SAM-DETR++ is ahead of Deformable DETR", "sam_detr_pp", "deformable_detr", 4.7),
)
