"""Exported files detect what the model detects, at image sizes that differ from the traced ones."""

import json
from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate
from torch.testing import assert_close

from conftest import make_model, randomize, randomize_statistics, shallow_with_two_levels
from samdetr.engine import load_config
from samdetr.export import DESCRIPTION, DisagreementError, ExportError, Settings, export_model
from samdetr.export import formats as formats_module
from samdetr.export.exporter import random_image
from samdetr.export.graph import INPUTS, OUTPUTS, DetectionGraph

MINI = Path(__file__).parents[2] / "configs/mini"
VARIANTS = (  # a config for each kind of attention, prior, query, head and sampling
    "sam_detr_smca",
    "sam_detr_pp_smca_dn",
    "detr",
    "conditional_detr",
    "dab_detr",
    "smca_detr",
    "deformable_detr",
    "ablations/table3_row2_average",
    "ablations/figure7_16_keypoints",
)
SHALLOW = ("model.encoder.num_layers=1",)  # torch.export takes its time
SIZES = [(72, 96), (96, 72), (101, 90)]


def make_detector(name, *overrides):
    """The model of a mini config, randomised so that boxes leave their references.

    With other seeds a box may end exactly a cell outside of the map, where rounding decides whether
    RoIAlign takes a sample.
    """
    return build_detector(load_config(str(MINI / f"{name}.py"), overrides).model)


def build_detector(config):
    torch.manual_seed(1)
    return randomize_statistics(randomize(instantiate(config), 0.03)).eval()


@pytest.mark.parametrize("name", INPUTS)
def test_inputs_normalise_and_pad_as_the_model_does(name):
    model = make_model()
    images = [random_image(x) for x in SIZES]
    batch, padding = model.batch([{"image": x} for x in images])
    collected = INPUTS[name].collect(model, images)
    assert_close(INPUTS[name](model)(*collected), (batch.tensor, padding), rtol=0, atol=0)


def test_pixels_outside_of_an_image_are_ignored():
    model = make_model()
    inputs = INPUTS["inside"](model)
    images, sizes = inputs.collect(model, [random_image(x) for x in SIZES])
    noise = torch.randint_like(images, 256)
    rows, columns = (torch.arange(x) for x in images.shape[2:])
    beyond = (rows[:, None] >= sizes[:, :1, None]) | (columns >= sizes[:, 1:, None])
    noisy = images.where(~beyond[:, None], noise)
    assert_close(inputs(noisy, sizes), inputs(images, sizes), rtol=0, atol=0)


def test_images_are_padded_to_a_multiple_of_what_the_backbone_divides_by(monkeypatch):
    model = make_model()
    monkeypatch.setattr(type(model.backbone), "size_divisibility", 32)
    images, padding = INPUTS["inside"](model)(
        *INPUTS["inside"].collect(model, [random_image((33, 64))])
    )
    assert images.shape == (1, 3, 64, 64)
    assert padding[0, 33:].all() and not padding[0, :33].any()


def test_a_backbone_that_needs_squares_is_refused(monkeypatch):
    model = make_model()
    monkeypatch.setattr(type(model.backbone), "padding_constraints", {"square_size": 64})
    with pytest.raises(ExportError, match="square images"):
        INPUTS["inside"](model)


def test_a_model_in_16_or_64_bits_is_refused(tmp_path):
    for dtype in ("bfloat16", "float64"):
        model = make_model().to(getattr(torch, dtype))
        with pytest.raises(ExportError, match=f"model.dtype is {dtype}, must be float32"):
            export_model(model, [tmp_path / "x.ts"])


def test_the_graph_returns_the_detections_of_the_model():
    model = make_detector("sam_detr_smca")
    images = [random_image(x) for x in SIZES]
    graph = DetectionGraph(model, INPUTS["inside"](model), OUTPUTS["inside"](model)).eval()
    with torch.no_grad():
        boxes, scores, classes = graph(*graph.inputs.collect(model, images))
        expected = model([{"image": x, "height": 1, "width": 1} for x in images])
    for i, instances in enumerate(x["instances"] for x in expected):
        assert_close(scores[i], instances.scores, rtol=0, atol=1e-6)
        # Neighbours whose scores are equal to rounding may change places.
        clear = instances.scores.diff().abs() > 2e-6
        sure = torch.cat([torch.tensor([True]), clear]) & torch.cat([clear, torch.tensor([True])])
        assert sure.sum() > 10
        assert_close(boxes[i][sure], instances.pred_boxes.tensor[sure], rtol=0, atol=1e-4)
        assert_close(classes[i][sure], instances.pred_classes[sure])


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_agrees_as_torchscript(name, tmp_path):
    model = make_detector(name, *SHALLOW)
    before = {key: x.clone() for key, x in model.state_dict().items()}
    checks = export_model(
        model, [tmp_path / "detector.ts"], Settings(sizes=SIZES[:2]), report=[].append
    )
    assert [x.sizes for x in checks] == [[SIZES[0]], [SIZES[1]], SIZES[:2]]
    assert all(x.difference.scores < 1e-4 for x in checks)
    assert all(x.difference.pixels < 1e-2 for x in checks)
    assert_close(dict(model.state_dict()), before, rtol=0, atol=0)


@pytest.fixture
def loaded(monkeypatch):
    """The last .pt2 file that was loaded, which takes its time, and its description."""
    found, extra = {}, {DESCRIPTION: ""}

    def load(path):
        found["module"] = torch.export.load(path, extra_files=extra).module()
        found["description"] = json.loads(extra[DESCRIPTION])
        return found["module"]

    kept = formats_module.FORMATS[".pt2"]._replace(load=load)
    monkeypatch.setitem(formats_module.FORMATS, ".pt2", kept)
    return found


@pytest.mark.slow
def test_several_levels_agree_as_pt2_for_one_image_with_both_ends_outside(tmp_path, loaded):
    model = build_detector(shallow_with_two_levels(load_config(str(MINI / "sam_detr_pp.py")).model))
    # Traced for any number of images it takes twice the time: that is for a single level, below.
    settings = Settings("outside", "outside", any_batch=False, sizes=SIZES)
    path = tmp_path / "detector.pt2"
    checks = export_model(model, [path], settings, {"classes": ["a"]}, report=[].append)
    assert all(x.difference.scores < 1e-4 and x.difference.pixels < 1e-2 for x in checks)

    module, description = loaded["module"], loaded["description"]
    assert description["classes"] == ["a"] and description["top_k"] == "outside"
    boxes, scores = module(torch.randn(1, 3, 90, 75), torch.zeros(1, 90, 75, dtype=torch.bool))
    assert boxes.shape == (1, 30, 4) and scores.shape == (1, 30, 10)
    assert [x.sizes for x in checks] == [[x] for x in SIZES]
    with pytest.raises(AssertionError, match="Guard failed"):
        module(torch.zeros(2, 3, 96, 80), torch.zeros(2, 96, 80, dtype=torch.bool))


@pytest.mark.slow
def test_a_pt2_file_takes_any_number_of_images(tmp_path, loaded):
    model = make_detector("detr", *SHALLOW, "model.decoder.levels=[0]")
    files = [tmp_path / "detector.pt2"]
    checks = export_model(model, files, Settings(sizes=SIZES), report=[].append)
    assert [x.sizes for x in checks] == [*([x] for x in SIZES), SIZES[:2]]
    images, sizes = torch.zeros(3, 3, 96, 80, dtype=torch.uint8), torch.tensor([[96, 80]] * 3)
    assert len(loaded["module"](images, sizes)[0]) == 3


@pytest.mark.slow
def test_a_file_that_disagrees_is_an_error_and_does_not_replace_another(tmp_path, monkeypatch):
    def load_wrong(path):
        run = formats_module.load_torchscript(path)
        return lambda *inputs: [x + 0.1 for x in run(*inputs)[:2]] + [run(*inputs)[2]]

    path = tmp_path / "detector.ts"
    path.write_text("old")
    wrong = formats_module.FORMATS[".ts"]._replace(load=load_wrong)
    monkeypatch.setitem(formats_module.FORMATS, ".ts", wrong)
    with pytest.raises(DisagreementError, match="detector.ts, 72x96: scores differ by 1.0e-01"):
        export_model(make_detector("detr"), [path], Settings(sizes=SIZES), report=[].append)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_file_that_fails_at_other_sizes_is_an_error_and_is_not_kept(tmp_path, monkeypatch):
    def run(*inputs):
        raise RuntimeError("shape '[0, 12]' is invalid for input of size 4096")

    kept = formats_module.FORMATS[".ts"]._replace(
        write=lambda source, path: path.touch(), load=lambda path: run
    )
    monkeypatch.setitem(formats_module.FORMATS, ".ts", kept)
    with pytest.raises(ExportError, match=r"detector\.ts fails for images of other sizes"):
        export_model(make_model().eval(), [tmp_path / "detector.ts"])
    assert not any(tmp_path.iterdir())
