"""Mosaic and mixup: boxes stay on their objects, and seed and position determine everything."""

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from PIL import Image

from samdetr.data import DetectionMapper, MixUp, Mosaic, build_train_loader
from samdetr.data.mixing import Scene

SIZES = [(40, 60), (80, 30), (64, 64), (20, 90)]  # height, width


def scene(number):
    """Black, with two objects of a grey level of their own; the number is in their class."""
    height, width = SIZES[number]
    image = np.zeros((height, width, 3), np.uint8)
    objects = []
    for i, (x, y) in enumerate([(2, 3), (width // 2, height // 2)]):
        box = [x, y, x + width // 3, y + height // 3]
        level = 50 + 50 * number + 20 * i
        image[box[1] : box[3], box[0] : box[2]] = level
        objects.append({"bbox": box, "bbox_mode": 0, "category_id": level, "iscrowd": 0})
    return Scene.of(image, objects)


@pytest.mark.parametrize("seed", range(10))
def test_a_mosaic_keeps_boxes_on_their_objects(seed):
    np.random.seed(seed)
    others = iter([scene(1), scene(2), scene(3)])
    found = Mosaic(100, prob=1.0, least_visible=0.0)(scene(0), lambda: next(others))
    assert found.image.shape == (100, 100, 3)
    levels = [x["category_id"] for x in found.objects]
    assert len(set(levels)) == len(levels) >= 4
    for entry in found.objects:
        x0, y0, x1, y1 = entry["bbox"]
        assert 0 <= x0 < x1 <= 100 and 0 <= y0 < y1 <= 100
        level = entry["category_id"]
        inner = found.image[int(y0) + 2 : int(y1) - 1, int(x0) + 2 : int(x1) - 1]
        if inner.size:
            assert np.abs(inner.astype(int) - level).max() <= 2
        left, top = max(int(x0) - 4, 0), max(int(y0) - 4, 0)
        around = found.image[top : int(y1) + 4, left : int(x1) + 4, 0].astype(int)
        alike = np.abs(around - level) <= 2
        if x1 - x0 > 6 and y1 - y0 > 6:  # the object ends where the box ends
            rows, columns = (np.flatnonzero(alike.sum(axis) > 1) for axis in (1, 0))
            sides = left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1
            assert np.allclose(sides, entry["bbox"], atol=2.5)


def test_objects_that_hardly_remain_are_left_out():
    np.random.seed(0)
    counts = {}
    for least in (0.0, 0.5, 1.0):
        np.random.seed(3)
        made = Mosaic(100, prob=1.0, scale=(1.0, 1.0), least_visible=least)
        counts[least] = len(made(scene(0), lambda: scene(1)).objects)
    assert counts[0.0] >= counts[0.5] >= counts[1.0]
    assert counts[0.0] > counts[1.0]


def test_mixup_blends_and_keeps_the_objects_of_both():
    np.random.seed(0)
    share = np.random.RandomState(0)
    share.uniform()
    share = share.beta(1.5, 1.5)
    one, other = scene(2), scene(0)
    found = MixUp(prob=1.0)(one, lambda: other)
    scaled = other.resized(64 / 60)
    assert found.image.shape == one.image.shape
    height, width = scaled.image.shape[:2]
    expected = one.image.astype(float)
    expected[:height, :width] *= share
    expected[:height, :width] += (1 - share) * scaled.image
    assert np.abs(found.image - expected).max() <= 0.51
    assert [x["bbox"] for x in found.objects] == [*one.boxes.tolist(), *scaled.boxes.tolist()]


@pytest.mark.parametrize("part", [Mosaic(50, prob=0.0), MixUp(prob=0.0)])
def test_what_is_not_drawn_changes_nothing(part):
    assert part(one := scene(0), lambda: pytest.fail("nothing is drawn")) is one


@pytest.fixture
def records(tmp_path):
    made = []
    for number, (height, width) in enumerate(SIZES):
        path = tmp_path / f"{number}.png"
        Image.fromarray(scene(number).image).save(path)
        objects = [{**x, "bbox_mode": 0} for x in scene(number).objects]
        made.append(
            {"file_name": str(path), "width": width, "height": height, "annotations": objects}
        )
    return made


def loader(records, **settings):
    mapper = DetectionMapper(
        is_train=True,
        augmentations=[T.RandomFlip()],
        image_format="RGB",
        mixing=[Mosaic(64, prob=0.7), MixUp(prob=0.7)],
    )
    return build_train_loader(records, mapper=mapper, total_batch_size=2, seed=4, **settings)


def first(batches, count):
    return [x for _, batch in zip(range(count), batches) for x in batch]


@pytest.mark.parametrize("workers", [0, 1])
def test_seed_and_position_determine_the_mixed_images(records, workers):
    expected = first(loader(records), 6)
    later = loader(records, num_workers=workers)
    later.seek(3)
    found = first(later, 3)
    for one, two in zip(found, expected[6:], strict=True):
        assert torch.equal(one["image"], two["image"])
        assert torch.equal(one["instances"].gt_boxes.tensor, two["instances"].gt_boxes.tensor)
    assert len({len(x["instances"]) for x in expected}) > 1


def test_augmentations_are_given_the_boxes(records):
    seen = []

    class Seen(T.Augmentation):
        def get_transform(self, image, boxes):
            seen.append((image.shape[:2], boxes))
            return T.NoOpTransform()

    mapper = DetectionMapper(is_train=True, augmentations=[Seen()], image_format="RGB")
    mapper(records[1])
    ((shape, boxes),) = seen
    assert shape == SIZES[1] and np.array_equal(boxes, scene(1).boxes)


def test_min_iou_crops_keep_an_object_in_the_image(records):
    crop = T.MinIoURandomCrop(min_ious=(0.1,))
    mapper = DetectionMapper(is_train=True, augmentations=[crop], image_format="RGB")
    sizes = set()
    for seed in range(10):
        np.random.seed(seed)
        found = mapper(records[2])
        sizes.add(tuple(found["image"].shape[1:]))
        assert len(found["instances"]) >= 1
    assert len(sizes) > 2


def test_large_scale_jitter_is_that_of_detectron2(records):
    jitter = [T.ResizeScale(0.1, 2.0, 128, 128), T.FixedSizeCrop((128, 128))]
    mapper = DetectionMapper(is_train=True, augmentations=jitter, image_format="RGB")
    for record in records:
        np.random.seed(1)
        found = mapper(record)
        assert found["image"].shape == (3, 128, 128)
        for box, label in zip(found["instances"].gt_boxes, found["instances"].gt_classes):
            x, y = ((box[:2] + box[2:]) / 2).int()
            assert abs(int(found["image"][0, y, x]) - int(label)) <= 2


def test_one_broken_file_is_one_unreadable_image_wherever_it_is_drawn(records):
    records = [{**x, "annotations": x["annotations"]} for x in records]
    records[1]["file_name"] = "nowhere.png"
    made = loader(records, max_unreadable=1)
    first(made, 12)
    (reason,) = made.unreadable
    assert "nowhere.png" in reason
