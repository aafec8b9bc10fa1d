"""Denoising queries: isolated from matching, noisy within bounds, counted once."""

from __future__ import annotations

import logging

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from torch.testing import assert_close

from conftest import make_batch, make_config, make_model, make_targets, randomize
from samdetr.checkpoint import Checkpointer
from samdetr.modeling import Denoising, HungarianMatcher, NoDenoising, SetCriterion
from samdetr.structures import Predictions, Queries

DIM, CLASSES, QUERIES = 32, 5, 6


def make_denoising(**arguments) -> Denoising:
    return Denoising(num_classes=CLASSES, dim=DIM, **arguments)


def make_matching_queries(batch: int) -> Queries:
    return Queries(torch.zeros(batch, QUERIES, DIM), torch.randn(batch, QUERIES, 4))


def dn_model(variant: str = "sam_detr_smca"):
    config = make_config(variant)
    config.denoising = L(Denoising)(num_classes="${model.num_classes}", dim="${model.neck.dim}")
    return randomize(instantiate(config), std=0.05)


def test_every_group_holds_every_box_once_and_padding_none():
    targets = make_targets((3, 0, 1))

    queries = make_denoising(num_groups=4)(make_matching_queries(3), targets)

    groups = queries.known.unflatten(1, (4, 3))
    wanted = torch.tensor([[0, 1, 2], [-1, -1, -1], [0, -1, -1]])
    assert torch.equal(groups, wanted[:, None].expand(-1, 4, -1))
    assert queries.content.shape == (3, QUERIES + 12, DIM)
    assert queries.reference.shape == (3, QUERIES + 12, 4)


def test_matching_queries_are_untouched_and_inference_adds_nothing():
    matching, targets = make_matching_queries(2), make_targets((3, 1))

    queries = make_denoising()(matching, targets)

    assert torch.equal(queries.content[:, :QUERIES], matching.content)
    assert torch.equal(queries.reference[:, :QUERIES], matching.reference)
    assert make_denoising()(matching, None) is matching
    assert NoDenoising()(matching, targets) is matching


def test_without_noise_the_queries_are_the_ground_truth():
    targets = make_targets((3, 2))
    denoising = make_denoising(num_groups=2, label_noise=0.0, box_noise=0.0)

    queries = denoising(make_matching_queries(2), targets)

    content, boxes = queries.content[:, QUERIES:], queries.reference[:, QUERIES:].sigmoid()
    for image, group in ((0, 0), (0, 1)):
        part = slice(3 * group, 3 * group + 3)
        assert_close(content[image, part], denoising.labels(targets.labels[image]))
        assert_close(boxes[image, part], targets.boxes[image], atol=1e-5, rtol=0)
    assert_close(boxes[1, :2], targets.boxes[1, :2], atol=1e-5, rtol=0)


def test_noise_has_its_range_and_its_frequency():
    denoising = make_denoising(label_noise=0.2, box_noise=0.4)
    boxes = torch.tensor([0.5, 0.5, 0.2, 0.3]).expand(10_000, 4)
    labels = torch.full((10_000,), 2)

    shift = (denoising.noisy_boxes(boxes) - boxes) / boxes[:, [2, 3, 2, 3]]
    changed = denoising.noisy_labels(labels)

    bounds = torch.tensor([0.2, 0.2, 0.4, 0.4])  # half the size for centres
    assert (shift.abs() <= bounds + 1e-6).all()
    assert (shift.abs().amax(0) > 0.95 * bounds).all()
    # A uniform variable in [-b, b]: mean 0, standard deviation b / sqrt(3); five sigma.
    assert (shift.mean(0).abs() < 5 * bounds / 3**0.5 / 100).all()
    assert_close(shift.std(0), bounds / 3**0.5, rtol=0.03, atol=0)
    # A label drawn anew is the same one in a fifth of the cases; sigma is 0.0037.
    assert (changed != 2).float().mean().item() == pytest.approx(0.2 * 0.8, abs=5 * 0.0037)
    assert set(changed.unique().tolist()) == set(range(CLASSES))


def test_mask_hides_denoising_queries_other_groups_and_queries_without_a_box():
    queries = make_denoising(num_groups=2)(make_matching_queries(2), make_targets((2, 1)))

    visible = queries.mask[:, 0] == 0  # (B, N + D, N + D)

    group, has_box = [0, 0, 1, 1], {0: [True] * 4, 1: [True, False, True, False]}
    for image in range(2):
        for i in range(QUERIES + 4):
            for j in range(QUERIES + 4):
                wanted = j < QUERIES or (
                    i >= QUERIES
                    and group[i - QUERIES] == group[j - QUERIES]
                    and has_box[image][j - QUERIES]
                )
                assert visible[image, i, j] == wanted, (image, i, j)
    assert torch.equal(queries.mask.isinf(), ~visible[:, None])


@pytest.mark.parametrize("variant", ["sam_detr", "sam_detr_smca"])
@pytest.mark.parametrize("counts", [(3, 1), (0, 0)])
def test_matching_predictions_do_not_depend_on_denoising(variant, counts):
    model, seen = dn_model(variant).train(), []
    model.decoder.register_forward_hook(lambda *x: seen.append(x[-1]))
    batch = make_batch(counts=counts)

    model(batch)
    model.denoising = NoDenoising()
    model(batch)
    model.eval()
    model(batch)

    noisy, plain, inference = seen
    count = plain.logits.shape[2]
    assert noisy.logits.shape[2] > count
    for wanted, found, evaluated in zip(plain, noisy, inference):
        assert_close(found[:, :, :count], wanted, atol=1e-5, rtol=0)
        assert_close(evaluated, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("counts", [(0, 0), (3, 0), (4, 30)])
def test_losses_have_the_same_names_and_reach_every_parameter(counts):
    model = dn_model().train()

    losses = model(make_batch(counts=counts))
    sum(losses.values()).backward()

    names = {f"loss_{x}{y}" for x in ("ce", "bbox", "giou") for y in ("_0", "_1", "")}
    assert set(losses) == names | {f"{x}_dn" for x in names}
    assert all(x.isfinite() for x in losses.values())
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    assert model.denoising.labels.weight.grad.any() == (sum(counts) > 0)


def test_losses_are_divided_by_the_number_of_denoised_boxes():
    targets = make_targets((3, 1))
    known = torch.tensor([[0, 1, 2, 0, 1, 2], [0, -1, -1, 0, -1, -1]])
    shape = (2, 2, QUERIES + 6)
    predictions = Predictions(torch.randn(*shape, CLASSES), torch.rand(*shape, 4))

    losses = SetCriterion(HungarianMatcher())(predictions, targets, known)

    for layer, suffix in enumerate(("_0", "")):
        total = 0.0
        for image, query in (known >= 0).nonzero().tolist():
            box = predictions.boxes[layer, image, QUERIES + query]
            total += (box - targets.boxes[image, known[image, query]]).abs().sum()
        assert_close(losses[f"loss_bbox{suffix}_dn"], 5 * total / 8)


def test_more_boxes_than_queries_are_drawn_by_chance_and_reported(caplog):
    targets = make_targets((12, 3))
    denoising = make_denoising(max_queries=8)

    with caplog.at_level(logging.WARNING):
        known = denoising(make_matching_queries(2), targets).known

    assert "an image has 12 boxes: a random 8 of them" in caplog.text
    assert known.shape == (2, 8)
    assert len(set(known[0].tolist())) == 8 and known[0].max() < 12
    assert sorted(known[1].tolist()) == [-1] * 5 + [0, 1, 2]


def test_denoising_checkpoint_serves_a_model_without(tmp_path):
    model, plain = dn_model(), make_model("sam_detr_smca")
    Checkpointer(model, str(tmp_path)).save("model")

    Checkpointer(plain).load(str(tmp_path / "model.pth"))

    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"label_noise": 1.5}, "label_noise is 1.5"),
        ({"box_noise": 1.1}, "box_noise is 1.1"),
        ({"num_groups": 0}, "num_groups is 0"),
        ({"max_queries": 2}, "max_queries is 2, must be"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, complaint):
    with pytest.raises(ValueError, match=complaint):
        make_denoising(**arguments)
