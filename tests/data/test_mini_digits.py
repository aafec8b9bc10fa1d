"""The pictures of the small data set: repeatable, held out, tight boxes, not trivial."""

import dataclasses
import sys

import numpy as np
import pytest

from samdetr.data.mini.digits import (
    Digit,
    SceneParameters,
    ink_of,
    load_sources,
    random_background,
    random_stream,
    render_scene,
    shared_part,
)

MINI = SceneParameters()
SOURCES = load_sources()
LUMINANCE = (0.299, 0.587, 0.114)


def scenes(parameters, split, count, sources=SOURCES):
    return [render_scene(parameters, sources, split, index) for index in range(count)]


def test_an_image_depends_on_nothing_but_seed_split_and_index():
    forwards = [render_scene(MINI, SOURCES, "val", index)[0] for index in range(5)]
    backwards = [render_scene(MINI, SOURCES, "val", index)[0] for index in reversed(range(5))]
    np.testing.assert_array_equal(forwards, backwards[::-1])

    others = [
        render_scene(MINI, SOURCES, "train", 0)[0],
        render_scene(dataclasses.replace(MINI, seed=1), SOURCES, "val", 0)[0],
        forwards[1],
    ]
    assert all((forwards[0] != other).mean() > 0.5 for other in others)


def test_splits_share_no_digit_sample():
    numbered = SOURCES._replace(labels=np.arange(len(SOURCES.labels)))
    samples = {
        split: {digit.label for _, digits in scenes(MINI, split, 300, numbered) for digit in digits}
        for split in ("train", "val")
    }
    assert min(map(len, samples.values())) > 300
    assert not samples["train"] & samples["val"]
    for split, chosen in samples.items():
        assert {SOURCES.labels[sample] for sample in chosen} == set(range(10)), split


def test_splits_share_no_region_of_a_photograph():
    # Photographs that are 0 where one split may look and 255 where the other may.
    photo = np.full((427, 640, 3), 128, np.uint8)
    photo[:, : int(640 * 0.62)], photo[:, int(640 * 0.64) :] = 0, 255
    marked = SOURCES._replace(photos=[photo])
    for split, grey in (("train", 0), ("val", 255)):
        for index in range(100):
            stream = random_stream(MINI, split, index)
            background = random_background(stream, marked, split, MINI.size)
            assert np.ptp(background) == 0
            assert abs(background.flat[0] - grey) < 80  # contrast and brightness vary


def test_boxes_are_tight_around_what_was_painted():
    parameters = dataclasses.replace(MINI, max_objects=1, noise=0)
    for index in range(100):
        image, (digit,) = render_scene(parameters, SOURCES, "train", index)
        stream = random_stream(parameters, "train", index)
        before = random_background(stream, SOURCES, "train", parameters.size).astype(np.uint8)
        rows, columns = np.nonzero((image != before).any(-1))
        x, y, width, height = digit.box
        assert (columns.min(), rows.min()) == (x, y)
        assert (columns.max() + 1, rows.max() + 1) == (x + width, y + height)


def test_digits_have_the_heights_asked_for_and_differ_in_scale():
    heights = [digit.ink.shape[0] for _, ds in scenes(MINI, "val", 300) for digit in ds]
    assert min(heights) >= MINI.min_height - 2 and max(heights) <= MINI.max_height + 2
    small, large = np.percentile(heights, [5, 95])
    assert large / small >= 2.2
    assert max(heights) / min(heights) >= 2.5


@pytest.mark.parametrize("height", [20, 33.3, 56])
def test_ink_reaches_every_side_of_its_box(height):
    for glyph in SOURCES.glyphs[::50]:
        ink = ink_of(glyph, height)
        assert abs(ink.shape[0] - height) <= 0.15 * height
        assert min(line.max() for line in (ink[0], ink[-1], ink[:, 0], ink[:, -1])) > 0.5


def test_digits_stay_inside_and_hardly_overlap():
    counts = []
    for _, digits in scenes(MINI, "train", 100):
        counts.append(len(digits))
        for index, digit in enumerate(digits):
            x, y, width, height = digit.box
            assert min(x, y) >= 0 and max(x + width, y + height) <= MINI.size
            assert all(shared_part(digit, other) <= MINI.overlap for other in digits[:index])
    assert set(counts) == {1, 2, 3, 4}


def test_digits_stand_out_from_what_they_cover():
    parameters = dataclasses.replace(MINI, max_objects=1, noise=0)
    for index in range(100):
        image, (digit,) = render_scene(parameters, SOURCES, "train", index)
        x, y, width, height = digit.box
        place = np.s_[y : y + height, x : x + width]
        stream = random_stream(parameters, "train", index)
        covered = random_background(stream, SOURCES, "train", parameters.size)[place]
        solid = image[place][digit.ink == 1]
        difference = solid.mean(0) @ LUMINANCE - covered.mean((0, 1)) @ LUMINANCE
        assert abs(difference) > parameters.contrast - 2  # the image is in whole grey levels


def test_the_shared_part_is_that_of_the_smaller_box():
    large = Digit(0, 10, 10, np.ones((20, 30)))
    assert shared_part(large, Digit(0, 35, 5, np.ones((10, 10)))) == pytest.approx(5 * 5 / 100)
    assert shared_part(large, Digit(0, 12, 12, np.ones((4, 4)))) == 1
    assert shared_part(large, Digit(0, 40, 10, np.ones((20, 30)))) == 0
    assert shared_part(large, Digit(0, 90, 90, np.ones((4, 4)))) == 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"min_objects": 3, "max_objects": 2}, "min_objects=3, max_objects=2"),
        ({"max_height": 96}, "max_height=96, size=96"),
        ({"min_height": 4}, "min_height=4"),
        ({"contrast": 200}, "contrast=200"),
    ],
)
def test_impossible_parameters_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        SceneParameters(**wrong)


def test_a_missing_scikit_learn_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ModuleNotFoundError, match="scikit-learn.*extra 'mini'"):
        load_sources()
