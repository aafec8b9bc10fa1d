"""Parts of the model given to torch.compile."""

from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate
from torch._dynamo.utils import counters
from torch.testing import assert_close

from conftest import make_batch, make_model, shallow_with_two_levels
from samdetr.engine import ConfigError, compile_parts, load_config

pytestmark = pytest.mark.slow

MINI = Path(__file__).parents[2] / "configs/mini"


def test_compiled_parts_give_the_same_losses_and_one_graph_serves_all_image_sizes():
    torch._dynamo.reset()
    config = shallow_with_two_levels(load_config(str(MINI / "sam_detr_pp_smca.py")).model)
    plain, compiled = instantiate(config), instantiate(config)
    compile_parts(compiled, ["backbone", "encoder"], backend="eager")
    compiled.load_state_dict(plain.state_dict())  # under the same names
    counters.clear()
    graphs = []
    for sizes in (((48, 64), (40, 33)), ((80, 56), (64, 72)), ((96, 40), (57, 99))):
        batch = make_batch(sizes)
        losses, expected = compiled(batch), plain(batch)
        assert_close(losses, expected)
        sum(losses.values()).backward()
        graphs.append(counters["stats"]["unique_graphs"])
    # Lengths that are equal by chance are taken to be equal, until a second size tells otherwise.
    assert 0 < graphs[1] == graphs[2]


def test_a_part_that_the_model_has_not_is_named():
    with pytest.raises(
        ConfigError, match="'trunk': the model has no such part, but backbone, neck"
    ):
        compile_parts(make_model("sam_detr"), ["trunk"])
