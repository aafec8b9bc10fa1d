"""Parameters and multiply-adds: by hand for small modules, and against the paper's tables."""

from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate
from detectron2.layers import ROIAlign
from torch import nn

from benchmark import flops as analysis
from benchmark import paper_table as paper
from benchmark.parts import OTHER
from conftest import make_boxes, make_config, make_level, make_pyramid
from samdetr.engine import load_config
from samdetr.modeling import KeypointResampler
from samdetr.modeling.attention import attend
from samdetr.modeling.encoder import DeformableAttention
from samdetr.modeling.ops.roi_align import Regions

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
COSTS = {  # and how far operations are from those of the paper
    "detr_r50_12ep": 0.05,
    "deformable_detr_r50_ss_12ep": 0.05,
    "dab_detr_r50_dc5_3pat_50ep": 0.05,
    # The paper does not print what its own code has for single-scale SAM-DETR.
    "sam_detr_r50_smca_12ep": 0.06,
    "sam_detr_r50_dc5_smca_12ep": 0.07,
    "sam_detr_pp_r50_smca_dn_12ep": 0.05,
}
ROWS = {row.config: row for row in paper.PAPER}


class Call(nn.Module):
    """A function of a module, if any, and tensors, as a module."""

    def __init__(self, function, *parts):
        super().__init__()
        self.function = function
        self.parts = nn.ModuleList(parts)

    def forward(self, *tensors):
        return self.function(*self.parts, *tensors)


def build(name, *overrides):
    return analysis.build(load_config(str(CONFIGS / f"{name}.py"), overrides).model)


def count(module, *inputs):
    """Multiply-adds of a module."""
    return sum(analysis.count_parts(module.eval(), *inputs).values())


def test_a_multiply_add_of_a_linear_layer_is_one_operation():
    assert count(nn.Linear(6, 10), torch.randn(2, 5, 6)) == 2 * 5 * 6 * 10


@pytest.mark.parametrize("key_heads", [4, 1])
def test_attention_counts_both_products_in_the_kernel_and_with_shared_keys(key_heads):
    query, key = torch.randn(2, 4, 5, 8), torch.randn(2, key_heads, 7, 8)
    value, bias = torch.randn(2, 4, 7, 3), torch.randn(2, 1, 1, 7)

    flops = count(Call(attend), query, key, value, bias)

    assert flops == 2 * 4 * 5 * 7 * (8 + 3)


def test_deformable_attention_counts_projections_samples_and_their_weighted_sum():
    dim, heads, points, queries = 32, 4, 3, 5
    with torch.device("meta"):  # as `analyze` does; a CPU has a softmax of its own
        levels = make_pyramid(dim)
        inputs = [
            torch.randn(2, queries, dim),
            torch.rand(2, queries, len(levels), 2),
            torch.randn(2, sum(level.tokens.shape[1] for level in levels), dim),
        ]
    tokens = sum(height * width for height, width in (level.size for level in levels))
    samples = queries * heads * len(levels) * points
    module = Call(
        lambda attention, *tensors: attention(*tensors, levels),
        DeformableAttention(dim, heads, len(levels), points).to("meta"),
    )

    flops = count(module, *inputs)

    projections = (tokens + queries) * dim**2 + 3 * dim * samples
    assert flops == 2 * (projections + samples * dim // heads * (4 + 1))


@pytest.mark.parametrize(("ratio", "samples"), [(3, 9), (1, 1), (0, 4)])
def test_roi_align_counts_its_bilinear_samples(ratio, samples):
    rois = torch.tensor([[0, 1.0, 1, 4, 3], [1, 0, 2, 5, 5]])
    align = ROIAlign((7, 7), 1.0, ratio, aligned=True)
    assert count(align, torch.randn(2, 6, 8, 9), rois) == 2 * 6 * 7 * 7 * samples * 4


def test_the_resampler_counts_four_per_channel_of_a_keypoint():
    resampler = KeypointResampler(8, num_points=5, region_size=3, reduced_dim=2, hidden_dims=(4, 6))
    regions = Regions(torch.randn(2, 3, 8, 3, 3))
    layers = 9 * 8 * 2 + 9 * 2 * 4 + 4 * 6 + 6 * 10
    flops = count(resampler, regions, make_boxes(2, 3), make_level(dim=8))
    assert flops == 2 * 3 * (layers + 4 * 5 * 8)


def test_parts_are_those_of_the_paper():
    model = analysis.build(make_config())
    model.neck.requires_grad_(False)

    parts = analysis.analyze(model, [(64, 64)]).parts

    assert parts["neck"].parameters == 0 and parts["neck"].flops > 0  # frozen
    aligner = [f"aligner.{x}" for x in ("pooler", "resampler", "content_gate", "position_gate")]
    for name in ("self_attention", *aligner, "cross_attention", "feed_forward", "heads"):
        assert parts[f"decoder.{name}"].flops > 0, name
    dim, queries, layers = 64, 12, 3
    assert parts["decoder.feed_forward"].flops == layers * queries * 2 * dim * 32
    assert parts["decoder.aligner.content_gate"].flops == layers * queries * dim * 8 * dim
    assert OTHER not in parts


def test_a_model_on_the_meta_device_counts_the_same():
    cfg = load_config(str(CONFIGS / "mini/detr.py"))
    meta, real = analysis.build(cfg.model), instantiate(cfg.model).eval()
    assert next(meta.parameters()).is_meta
    assert analysis.analyze(meta, [(64, 96)]) == analysis.analyze(real, [(64, 96)])


@pytest.mark.parametrize("kind", ["swin", "convnext", "vitdet", "dinov3"])
def test_other_backbones_on_the_meta_device_count_the_same(kind):
    cfg = load_config(str(CONFIGS / f"mini/sam_detr_pp_{kind}_smca_dn.py"))
    meta, real = (
        analysis.analyze(x, [(64, 96)]).parts["backbone"]
        for x in (analysis.build(cfg.model), instantiate(cfg.model).eval())
    )
    assert meta == real and real.flops > 1e7


@pytest.mark.usefixtures("shapes_only")
@pytest.mark.parametrize(("config", "tolerance"), COSTS.items())
def test_models_cost_what_the_paper_says(config, tolerance):
    total = analysis.analyze(build(f"coco/{config}")).total
    assert total.parameters == pytest.approx(ROWS[config].parameters * 1e6, abs=1.2e6)
    assert total.flops == pytest.approx(ROWS[config].gflops * 1e9, rel=tolerance)


@pytest.mark.usefixtures("shapes_only")
@pytest.mark.parametrize(("config", "gflops"), [("detr_r50_12ep", 86), ("detr_r50_dc5_12ep", 187)])
def test_with_100_queries_the_operations_are_those_of_detr(config, gflops):
    total = analysis.analyze(build(f"coco/{config}", "model.num_queries=100")).total
    assert total.flops == pytest.approx(gflops * 1e9, rel=0.01)


def test_every_config_of_the_paper_is_a_row_once():
    names = [row.config for row in paper.PAPER]
    assert len(set(names)) == len(names)
    for row in paper.PAPER:
        title = (CONFIGS / f"coco/{row.config}.py").read_text().partition("\n")[0]
        assert f": AP {row.ap})" in title
    absent = {x.stem for x in (CONFIGS / "coco").glob("sam_detr*.py")} - set(names)
    other_backbones = "convnext_t", "dinov3_s", "swin_l", "swin_t", "vitdet_b"
    assert absent == {
        *(f"sam_detr_pp_{x}_smca_dn_12ep" for x in other_backbones),
        # Single-scale for 50 epochs.
        "sam_detr_r50_50ep",
        "sam_detr_r50_smca_50ep",
        "sam_detr_r50_dc5_50ep",
        "sam_detr_r50_dc5_smca_50ep",
    }


@pytest.fixture
def main(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools")
    from analyze_model import main

    return main


def test_the_tool_lists_the_parts_of_a_config_with_overrides(main, capsys):
    mini = CONFIGS / "mini" / "sam_detr.py"
    arguments = ["--size", "64", "96", "--size", "96", "96", "model.num_queries=7"]
    main(["--config-file", str(mini), *arguments])
    model = build("mini/sam_detr", "model.num_queries=7")
    expected = analysis.part_table(analysis.analyze(model, [(64, 96), (96, 96)]))
    assert capsys.readouterr().out.strip() == expected
