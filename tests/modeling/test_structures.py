"""The tuples between the parts: layout of maps, valid extent, padded ground truth."""

import torch
from torch.testing import assert_close

from conftest import make_instances, make_level
from samdetr.structures import Targets


def test_map_lays_tokens_out_row_by_row():
    level = make_level(3, 5, dim=4)
    for y in range(3):
        for x in range(5):
            assert_close(level.map[:, :, y, x], level.tokens[:, y * 5 + x])


def test_extent_counts_the_valid_columns_and_rows_of_each_image():
    level = make_level(5, 7, [(5, 7), (3, 4), (1, 1), (5, 2)])
    assert_close(level.extent, torch.tensor([[7.0, 5.0], [4.0, 3.0], [1.0, 1.0], [2.0, 5.0]]))


def test_boxes_become_fractions_of_their_own_image():
    instances = make_instances(20, 50, 1)
    instances.gt_boxes.tensor[:] = torch.tensor([5.0, 2.0, 25.0, 12.0])
    targets = Targets.from_instances([instances, make_instances(30, 10, 2)])
    assert_close(targets.boxes[0, 0], torch.tensor([0.3, 0.35, 0.4, 0.5]))


def test_targets_are_padded_to_the_fullest_image():
    instances = [make_instances(20, 30, count) for count in (1, 0, 3)]
    targets = Targets.from_instances(instances)
    assert targets.counts == [1, 0, 3]
    assert targets.labels.dtype == torch.int64
    for image, count in enumerate(targets.counts):
        assert_close(targets.labels[image, :count], instances[image].gt_classes)
        assert not targets.labels[image, count:].any()
        assert (targets.boxes[image, count:] == 0.5).all()
