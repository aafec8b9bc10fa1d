"""The pictures of the small data set: repeatable, held out, tight boxes, not trivial."""

import dataclasses
import sys

import numpy as np
import pytest

from samdetr.data.mini import (
    SceneParameters,
    load_sources,
    random_background,
    random_stream,
    render_scene,
    shared_part,
)

MINI = SceneParameters()
SOURCES = load_sources()


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


@pytest.mark.slow
def test_splits_share_no_digit_sample():
    numbered = SOURCES._replace(labels=np.arange(len(SOURCES.labels)))
    samples = {
        split: {digit.label for _, digits in scenes(MINI, split, 150, numbered) for digit in digits}
        for split in ("train", "val")
    }
    assert min(map(len, samples.values())) > 200
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


def test_digits_stay_inside_and_hardly_overlap():
    counts = []
    for _, digits in scenes(MINI, "train", 100):
        counts.append(len(digits))
        for index, digit in enumerate(digits):
            x, y, width, height = digit.box
            assert min(x, y) >= 0 and max(x + width, y + height) <= MINI.size
            assert all(shared_part(digit, other) <= MINI.overlap for other in digits[:index])
    assert set(counts) == {1, 2, 3, 4}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"min_objects": 3, "max_objects": 2}, "min_objects=3, max_objects=2"),
        ({"max_height": 96}, "max_height=96"),
        ({"min_height": 4}, "min_height=4"),
    ],
)
def test_impossible_parameters_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        SceneParameters(**wrong)


def test_a_missing_scikit_learn_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ModuleNotFoundError, match="scikit-learn.*extra 'mini'"):
        load_sources()
