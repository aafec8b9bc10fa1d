"""The loader's own fast steps equal Detectron2's: pixels within rounding, boxes exactly."""

import numpy as np
import pytest
import torch
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from PIL import Image

from samdetr.data import DetectionMapper, ResizeShortestEdge
from samdetr.data.images import ResizeTransform

SIDES = dict(short_edge_length=[400, 500, 600], max_size=20_000, sample_style="choice")
LAST_SIDES = dict(short_edge_length=[480, 640, 800], max_size=1333, sample_style="choice")


def photograph(height, width, channels=3):
    """Smooth shades, edges and noise, (height, width, channels) uint8."""
    random = np.random.default_rng(height * width)
    y, x = np.mgrid[:height, :width][..., None]
    shades = 128 + 60 * np.sin(x / 9 + np.arange(channels)) + 40 * np.sign(np.sin(y / 7))
    return (shades + random.normal(0, 12, shades.shape)).clip(0, 255).astype(np.uint8)


def assert_pixels_close(actual, expected, levels):
    """Equal up to `levels` grey levels, and nearly everywhere exactly."""
    torch.testing.assert_close(actual, expected, rtol=0, atol=levels)
    assert (actual != expected).float().mean() < 0.02


@pytest.mark.parametrize("old", [(48, 64), (1, 1), (1, 50), (33, 2)])
@pytest.mark.parametrize("new", [(80, 107), (48, 64), (20, 27), (90, 30), (1, 1)])
def test_resizing_equals_detectron2_up_to_rounding(old, new):
    image = photograph(*old)
    resized = ResizeTransform(*old, *new).apply_image(image)
    expected = T.ResizeTransform(*old, *new).apply_image(image)
    np.testing.assert_allclose(resized.astype(int), expected.astype(int), rtol=0, atol=1)


VIEWS = {
    "flipped": lambda image: image[:, ::-1],
    "upside down": lambda image: image[::-1],
    "turned": lambda image: np.rot90(image),
    "turned back": lambda image: np.rot90(image, -1),
    "BGR": lambda image: image[..., ::-1],
    "flipped BGR": lambda image: image[:, ::-1, ::-1],
    "cut": lambda image: image[5:40, 7:50],
    "cut and flipped": lambda image: image[5:40, 7:50][:, ::-1],
    "from Pillow": lambda image: np.asarray(Image.fromarray(image)),
    "planes": lambda image: np.ascontiguousarray(image.transpose(2, 0, 1)).transpose(1, 2, 0),
    "grey": lambda image: image[..., :1],
    "two channels": lambda image: image[..., ::2],
}


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_of_an_image_is_resized_as_its_copy(view):
    image = VIEWS[view](photograph(48, 64))
    before = image.copy()
    resize = ResizeTransform(*image.shape[:2], 61, 83)
    np.testing.assert_array_equal(resize.apply_image(image), resize.apply_image(before))
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("interp", [Image.Resampling.NEAREST, Image.Resampling.BICUBIC])
def test_other_interpolations_are_detectron2s(interp):
    image = photograph(48, 64)
    for chosen, given in ((interp, None), (None, interp)):
        ours, theirs = (x(48, 64, 30, 90, chosen) for x in (ResizeTransform, T.ResizeTransform))
        resized = ours.apply_image(image, given)
        np.testing.assert_array_equal(resized, theirs.apply_image(image, given))


def pipeline(resize, flip, crop):
    """The augmentations of DETR, with a resizing class and each choice left open or not."""
    cut = T.AugmentationList([resize(**SIDES), T.RandomCrop("absolute_range", (384, 600))])
    return [T.RandomFlip(prob=flip), T.RandomApply(cut, prob=crop), resize(**LAST_SIDES)]


@pytest.fixture
def entry(tmp_path):
    Image.fromarray(photograph(180, 240)).save(tmp_path / "a.jpg", quality=90)
    corners = np.random.default_rng(0).uniform(0, [120, 90], (6, 2))
    boxes = [[*corner, 20.5 + 17 * i, 70.25 - 9 * i] for i, corner in enumerate(corners.tolist())]
    objects = [
        {"bbox": box, "bbox_mode": BoxMode.XYWH_ABS, "category_id": i, "iscrowd": int(i == 4)}
        for i, box in enumerate(boxes)
    ]
    objects[2].update(bbox=[30.3, 20.1, 99.9, 88.8], bbox_mode=BoxMode.XYXY_ABS)
    size = {"width": 240, "height": 180}
    return {"file_name": str(tmp_path / "a.jpg"), **size, "annotations": objects}


@pytest.mark.parametrize(("crop", "levels"), [(0.0, 1), (1.0, 2)])  # a level per resizing
@pytest.mark.parametrize("flip", [0.0, 1.0])
@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
def test_the_mapper_equals_detectron2s_with_the_same_draws(entry, flip, crop, levels, image_format):
    ours = DetectionMapper(
        True, augmentations=pipeline(ResizeShortestEdge, flip, crop), image_format=image_format
    )
    theirs = DatasetMapper(
        True, augmentations=pipeline(T.ResizeShortestEdge, flip, crop), image_format=image_format
    )
    for seed in range(3):
        np.random.seed(seed)
        mapped, drawn = ours(entry), np.random.rand()
        np.random.seed(seed)
        expected = theirs(entry)
        assert drawn == np.random.rand()  # as many draws before it
        assert_pixels_close(mapped["image"], expected["image"], levels)
        assert mapped["image"].is_contiguous()
        assert mapped["instances"].image_size == expected["instances"].image_size
        boxes, expected_boxes = (x["instances"].gt_boxes.tensor for x in (mapped, expected))
        assert torch.equal(boxes, expected_boxes) and boxes.dtype == expected_boxes.dtype
        assert torch.equal(mapped["instances"].gt_classes, expected["instances"].gt_classes)


def test_masks_and_keypoints_come_if_asked_for(entry):
    for annotation in entry["annotations"]:
        left, top, width, height = annotation["bbox"]
        annotation["segmentation"] = [[left, top, left + width, top, left, top + height]]
        annotation["keypoints"] = [left, top, 2]
    asked = dict(use_instance_mask=True, use_keypoint=True, keypoint_hflip_indices=[0])
    arguments = dict(augmentations=[T.HFlipTransform(240)], image_format="RGB", **asked)
    mapped, expected = (x(True, **arguments)(entry) for x in (DetectionMapper, DatasetMapper))
    mapped, expected = mapped["instances"], expected["instances"]
    assert torch.equal(mapped.gt_boxes.tensor, expected.gt_boxes.tensor)
    assert torch.equal(mapped.gt_keypoints.tensor, expected.gt_keypoints.tensor)
    for polygons, others in zip(mapped.gt_masks.polygons, expected.gt_masks.polygons, strict=True):
        np.testing.assert_array_equal(polygons, others)
