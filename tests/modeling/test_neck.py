"""From backbone maps to levels: projection, padding and position of every cell."""

import torch
from torch.testing import assert_close

from samdetr.modeling import ChannelMapper, MultiScaleMapper, SinePosition

CHANNELS = {"fine": 6, "coarse": 10}
IMAGES = [(20, 24), (13, 17), (1, 1)]  # (height, width) of each image


def make_neck(norm=""):
    return ChannelMapper(CHANNELS, 32, SinePosition(32), norm)


def make_features():
    return {"coarse": torch.randn(3, 10, 3, 4), "fine": torch.randn(3, 6, 5, 6)}


def make_padding():
    padding = torch.ones(3, 20, 24, dtype=torch.bool)
    for mask, (height, width) in zip(padding, IMAGES):
        mask[:height, :width] = False
    return padding


def test_every_cell_is_projected_by_the_matrix_of_its_level():
    neck, features = make_neck(), make_features()
    for level, projection, name in zip(
        neck(features, make_padding()), neck.projections, CHANNELS, strict=True
    ):
        weight = projection[0].weight[:, :, 0, 0]
        expected = torch.einsum("dc,bchw->bhwd", weight, features[name]) + projection[0].bias
        assert_close(level.tokens, expected.flatten(1, 2), atol=1e-5, rtol=1e-5)


def test_group_norm_follows_the_projection_where_it_is_asked_for():
    plain, normed = make_neck(), make_neck("GN")
    normed.load_state_dict(plain.state_dict(), strict=False)
    features, padding = make_features(), make_padding()
    for before, after in zip(plain(features, padding), normed(features, padding), strict=True):
        x = before.tokens  # GroupNorm of 32 groups: here each channel over all cells
        expected = (x - x.mean(1, True)) / (x.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        assert_close(after.tokens, expected, atol=1e-4, rtol=1e-4)


def test_a_cell_is_padded_if_its_first_pixel_is():
    for level in make_neck()(make_features(), make_padding()):
        height, width = level.size
        for mask, (rows, columns) in zip(level.padding.unflatten(1, level.size), IMAGES):
            for y in range(height):
                for x in range(width):
                    outside = y * 20 // height >= rows or x * 24 // width >= columns
                    assert mask[y, x] == outside


def test_levels_are_told_apart_by_what_is_added_to_their_positions():
    neck = MultiScaleMapper(CHANNELS, 32, SinePosition(32), "")
    plain = make_neck()
    plain.load_state_dict(neck.state_dict(), strict=False)
    features, padding = make_features(), make_padding()
    for index, (level, expected) in enumerate(
        zip(neck(features, padding), plain(features, padding), strict=True)
    ):
        added = neck.level_embedding.weight[index]
        assert_close(level.position, expected.position + added)
        assert torch.equal(level.tokens, expected.tokens)
    assert not torch.equal(*neck.level_embedding.weight)
