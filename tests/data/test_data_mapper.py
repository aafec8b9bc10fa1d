"""From file to tensor: images of every kind are read, and boxes follow the pixels."""

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from samdetr.data import DataError, DetectionMapper, ResizeShortestEdge, read_image

ROOT = Path(__file__).parents[2]
RED, BLUE = (255, 0, 0), (0, 0, 255)
ORIENTATION = 0x0112
# How a picture is stored for each value of the EXIF orientation, so that a viewer shows `picture`.
STORED = {
    1: lambda picture: picture,
    2: lambda picture: picture[:, ::-1],
    3: lambda picture: picture[::-1, ::-1],
    4: lambda picture: picture[::-1],
    5: lambda picture: picture.transpose(1, 0, 2),
    6: lambda picture: np.rot90(picture),
    7: lambda picture: np.rot90(picture.transpose(1, 0, 2), 2),
    8: lambda picture: np.rot90(picture, -1),
}


def picture(width=40, height=30, box=(5, 10, 25, 18)):
    """Blue, with a red box at x, y, x, y."""
    pixels = np.full((height, width, 3), BLUE, np.uint8)
    left, top, right, bottom = box
    pixels[top:bottom, left:right] = RED
    return pixels


def entry(file, width=40, height=30, box=(5, 10, 25, 18)):
    annotation = {"bbox": list(box), "bbox_mode": BoxMode.XYXY_ABS, "category_id": 3}
    size = {"width": width, "height": height}
    return {"file_name": str(file), **size, "annotations": [annotation]}


def mapper(*augmentations, is_train=True):
    return DetectionMapper(is_train, augmentations=list(augmentations), image_format="RGB")


def red_extent(image):
    """x, y, x, y of the pixels of a (3, H, W) image that are more red than not."""
    rows, columns = torch.nonzero(image[0] > 127, as_tuple=True)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def assert_box_is_on_red(mapped):
    (box,) = mapped["instances"].gt_boxes.tensor
    extent = torch.tensor(red_extent(mapped["image"]), dtype=box.dtype)
    torch.testing.assert_close(box, extent, rtol=0, atol=1.0)


def coco_augmentations(part):
    config = LazyConfig.load(str(ROOT / "configs" / "common" / "data.py"))
    return list(instantiate(config.dataloader[part].mapper.augmentations))


@pytest.mark.parametrize("orientation", sorted(STORED))
def test_a_turned_photograph_is_read_upright(tmp_path, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    stored = np.ascontiguousarray(STORED[orientation](picture()))
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)

    np.testing.assert_array_equal(read_image(str(tmp_path / "a.png")), picture())
    mapped = mapper()(entry(tmp_path / "a.png"))
    assert_box_is_on_red(mapped)


def test_an_unreadable_exif_block_is_ignored(tmp_path):
    Image.fromarray(picture()).save(tmp_path / "a.png", exif=b"Exif\0\0rubbish")
    np.testing.assert_array_equal(read_image(str(tmp_path / "a.png")), picture())


def test_another_size_than_annotated_is_an_error(tmp_path):
    Image.fromarray(picture()).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=f"{tmp_path / 'a.png'}.*40, 30.*41, 30"):
        mapper()(entry(tmp_path / "a.png", width=41))


def test_boxes_follow_the_pixels_through_the_training_pipeline(tmp_path):
    box = (130, 90, 230, 210)
    Image.fromarray(picture(400, 300, box)).save(tmp_path / "a.png")
    whole = mapper(*coco_augmentations("train"))
    np.random.seed(0)
    cut = 0
    for _ in range(60):
        mapped = whole(entry(tmp_path / "a.png", 400, 300, box))
        if len(mapped["instances"]):
            assert_box_is_on_red(mapped)
            assert mapped["instances"].gt_classes.tolist() == [3]
        else:
            assert (mapped["image"][0] > 127).sum() == 0
        left, top, right, bottom = red_extent(mapped["image"])
        cut += min(left, top) == 0 or right == mapped["image"].shape[2]
    assert cut > 3  # crops that go through the box are among them


def sampled(count, size=(480, 640)):
    """The transforms of `count` passes of the training pipeline over a grey image."""
    pipeline = T.AugmentationList(coco_augmentations("train"))
    np.random.seed(0)
    image = np.zeros((*size, 3), np.uint8)
    for _ in range(count):
        yield pipeline(T.AugInput(image)).transforms


@pytest.mark.slow
def test_flips_and_crops_come_half_of_the_time_and_with_the_sizes_of_detr():
    passes = list(sampled(300))
    flips = [any(isinstance(t, T.HFlipTransform) for t in passed) for passed in passes]
    crops = [passed for passed in passes if any(isinstance(t, T.CropTransform) for t in passed)]
    deviation = (300 * 0.25) ** 0.5
    assert abs(sum(flips) - 150) < 4 * deviation and abs(len(crops) - 150) < 4 * deviation

    before = [passed[1] for passed in crops]
    assert {min(resize.new_h, resize.new_w) for resize in before} == {400, 500, 600}
    sides = [(t.w, t.h, r.new_w, r.new_h) for r, t in ((p[1], p[2]) for p in crops)]
    for width, height, full_width, full_height in sides:
        assert 384 <= width <= min(600, full_width) and 384 <= height <= min(600, full_height)
    widths, heights = {side[0] for side in sides}, {side[1] for side in sides}
    assert max(widths) > 590 and min(widths) < 400 and max(heights) > 560 and min(heights) < 400

    for passed in passes:
        last = passed[-1]
        shortest, longest = sorted((last.new_h, last.new_w))
        assert shortest in range(480, 801, 32) or longest == 1333
    shortest = {min(p[-1].new_h, p[-1].new_w) for p in passes if p not in crops}
    assert shortest == set(range(480, 801, 32))


def test_crowds_and_masks_are_dropped_and_the_entry_is_not_changed(tmp_path):
    Image.fromarray(picture()).save(tmp_path / "a.png")
    record = entry(tmp_path / "a.png")
    record["annotations"].append({**record["annotations"][0], "iscrowd": 1})
    record["annotations"][0]["segmentation"] = [[5, 10, 25, 10, 25, 18]]
    kept = str(record)
    instances = mapper(T.HFlipTransform(40))(record)["instances"]
    assert instances.gt_boxes.tensor.tolist() == [[15, 10, 35, 18]]
    assert set(instances.get_fields()) == {"gt_boxes", "gt_classes"}
    assert str(record) == kept


def test_an_entry_without_annotations_is_an_image_without_objects(tmp_path):
    Image.fromarray(picture()).save(tmp_path / "a.png")
    record = {"file_name": str(tmp_path / "a.png")}
    mapped = mapper()(record)
    assert len(mapped["instances"]) == 0
    assert mapped["instances"].gt_boxes.tensor.shape == (0, 4)
    assert (mapped["width"], mapped["height"]) == (40, 30)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_annotations_of_the_photograph_as_stored_stay_on_it(tmp_path, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(picture()).save(tmp_path / "a.png", exif=exif)

    mapped = mapper()(entry(tmp_path / "a.png"))  # 40 x 30, as stored

    assert mapped["image"].shape == (3, 30, 40)
    assert_box_is_on_red(mapped)


@given(st.integers(1, 6000), st.integers(1, 6000), st.integers(1, 900), st.integers(900, 1400))
def test_no_side_shrinks_to_nothing(height, width, edge, max_size):
    image = np.broadcast_to(np.uint8(0), (height, width, 3))
    resize = ResizeShortestEdge(edge, max_size).get_transform(image)
    expected = T.ResizeShortestEdge.get_output_shape(height, width, edge, max_size)
    assert (resize.new_h, resize.new_w) == tuple(max(side, 1) for side in expected)


def test_boxes_of_integers_are_not_rounded(tmp_path):
    Image.fromarray(picture()).save(tmp_path / "a.png")
    steps = [T.ResizeTransform(30, 40, 50, 70), T.ResizeTransform(50, 70, 33, 47)]
    (box,) = mapper(*steps)(entry(tmp_path / "a.png"))["instances"].gt_boxes.tensor
    expected = torch.tensor([5 * 47 / 40, 10 * 33 / 30, 25 * 47 / 40, 18 * 33 / 30])
    torch.testing.assert_close(box, expected)
