"""The ablations of tables 3, 4 and 5 and of figure 7: each differs in what it is about, only."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
from torch import nn

from samdetr.modeling import (
    AverageResampler,
    Gate,
    ImageKeypointResampler,
    KeypointResampler,
    MaxResampler,
    OpenGate,
)

pytestmark = pytest.mark.slow

CONFIGS = Path(__file__).parents[1] / "configs"
ABLATIONS = sorted(f"ablations/{x.stem}" for x in (CONFIGS / "ablations").glob("*.py"))
VOC = sorted(f"voc/{x.stem}" for x in (CONFIGS / "voc").glob("*.py"))
MINI = sorted(f"mini/ablations/{x.stem}" for x in (CONFIGS / "mini" / "ablations").glob("*.py"))
SIZES = ((64, 48), (40, 56), (32, 72))


class Choice(NamedTuple):
    """What an ablation of the aligner is about."""

    resampler: type[nn.Module] = KeypointResampler
    num_points: int = 8
    gate: type[nn.Module] = Gate
    dropout: float = 0.1
    multi_scale: bool = False


ALIGNED = {
    "table3_row2_average": Choice(AverageResampler, 1, OpenGate),
    "table3_row3_max": Choice(MaxResampler, 1, OpenGate),
    "table3_row4_keypoint": Choice(num_points=1, gate=OpenGate),
    "table3_row5_keypoint_reweighting": Choice(num_points=1),
    "table3_row6_keypoints": Choice(gate=OpenGate),
    "table3_row7_keypoints_reweighting": Choice(),
    "table3_row8_no_dropout": Choice(dropout=0.0),
    "table3_row10_multi_scale": Choice(dropout=0.0, multi_scale=True),
    "table4_row1_box": Choice(),
    "table4_row2_image": Choice(ImageKeypointResampler),
    "figure7_1_keypoint": Choice(num_points=1),
    "figure7_2_keypoints": Choice(num_points=2),
    "figure7_4_keypoints": Choice(num_points=4),
    "figure7_8_keypoints": Choice(),
    "figure7_16_keypoints": Choice(num_points=16),
}
