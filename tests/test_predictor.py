"""The predictor detects what the model detects in evaluation, in images of every kind."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.structures import Boxes, Instances
from PIL import Image

from samdetr import Predictor, model_zoo
from samdetr.data import example_image, read_image
from samdetr.engine import ConfigError
from samdetr.errors import InputError
from samdetr.predictor import to_rgb

MINI = "mini/sam_detr_smca"
FIELDS = ("scores", "pred_classes")
ORIENTATION = 0x0112
CHANNELS = [
    "model.input_format",
    *(f"dataloader.{x}.mapper.image_format" for x in ("train", "test")),
]


@pytest.fixture(scope="module")
def predictor():
    return Predictor(MINI, device="cpu", threshold=0.3)


def assert_same(found: Instances, expected: Instances):
    assert found.image_size == expected.image_size and len(found) == len(expected)
    torch.testing.assert_close(found.pred_boxes.tensor, expected.pred_boxes.tensor)
    for field in FIELDS:
        torch.testing.assert_close(found.get(field), expected.get(field))


def recorded(predictor, monkeypatch):
    """Replace the model; returns a list that collects its inputs."""
    inputs = []

    def model(batch):
        inputs.append(batch)
        size = [(x["height"], x["width"]) for x in batch]
        boxes, scores = Boxes(torch.tensor([[0.0, 0.0, 1.0, 1.0]])), torch.tensor([0.9])
        fields = {"pred_boxes": boxes, "scores": scores, "pred_classes": torch.tensor([0])}
        return [{"instances": Instances(x, **fields)} for x in size]

    monkeypatch.setattr(predictor, "model", model)
    return inputs


def test_detections_are_those_of_evaluation(predictor):
    cfg = model_zoo.get_config(MINI)
    entry = instantiate(cfg.dataloader.test.mapper)(
        {"file_name": example_image(), "height": 96, "width": 96}
    )
    model = model_zoo.get(MINI, device="cpu").eval()
    with torch.no_grad():
        expected = model([entry])[0]["instances"]

    found = predictor(example_image())

    assert_same(found, expected[expected.scores >= 0.3])
    assert len(found) >= 3 and not found.scores.requires_grad and not predictor.model.training


def test_file_image_and_array_give_the_same(predictor):
    image = Image.open(example_image())
    array = np.asarray(image)
    expected = predictor(example_image())
    for same in (image, array, image.convert("RGBA"), array[::-1][::-1]):
        assert_same(predictor(same), expected)
    assert not torch.equal(predictor(array[..., ::-1]).scores, expected.scores)  # BGR is not RGB


def test_grey_is_the_same_in_an_array_an_image_and_a_file_of_16_bits(predictor, tmp_path):
    grey = np.asarray(Image.open(example_image()).convert("L"))
    deep = Image.fromarray(grey.astype(np.uint16) * 256)
    deep.save(tmp_path / "deep.png")
    expected = predictor(np.stack([grey] * 3, axis=-1))
    for same in (grey, Image.fromarray(grey), deep, tmp_path / "deep.png"):
        assert_same(predictor(same), expected)


def test_a_file_is_turned_as_viewers_do_and_an_image_is_taken_as_it_is(predictor, tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = 8  # a quarter turn to the left shows it upright
    upright = Image.open(example_image()).crop((0, 0, 96, 80))
    stored = upright.transpose(Image.Transpose.ROTATE_270)
    stored.save(tmp_path / "turned.png", exif=exif)
    assert_same(predictor(tmp_path / "turned.png"), predictor(upright))
    assert predictor(Image.open(tmp_path / "turned.png")).image_size == (96, 80)


def test_a_batch_gives_what_its_images_give_one_by_one(predictor, monkeypatch):
    array = read_image(example_image())
    images = [array, array[:, ::-1], example_image(), Image.fromarray(array[::-1].copy()), array]
    expected = [predictor(x) for x in images]
    monkeypatch.setattr(predictor, "batch_size", 2)

    found = predictor(images)

    assert len(found) == 5
    for pair in zip(found, expected):
        assert_same(*pair)
    for pair in zip(predictor(np.stack([array, array[:, ::-1]])), expected):
        assert_same(*pair)


def test_the_model_gets_the_channels_of_the_config(monkeypatch):
    array = read_image(example_image())
    for order, step in (("RGB", 1), ("BGR", -1)):
        predictor = Predictor(MINI, device="cpu", overrides=[f"{key}={order}" for key in CHANNELS])
        inputs = recorded(predictor, monkeypatch)
        predictor(array)
        ((entry,),) = inputs
        np.testing.assert_array_equal(entry["image"], array.transpose(2, 0, 1)[::step])
        assert (entry["height"], entry["width"]) == array.shape[:2]


def test_a_stream_reads_a_batch_at_a_time(predictor, monkeypatch):
    inputs = recorded(predictor, monkeypatch)
    monkeypatch.setattr(predictor, "batch_size", 2)
    taken = []

    def images():
        for number in range(5):
            taken.append(number)
            yield np.full((8, 8, 3), number, np.uint8)

    stream = predictor.stream(images())
    first = next(stream)
    assert taken == [0, 1] and (first.image == 0).all() and first.source is not None
    assert [int(x.image[0, 0, 0]) for x in stream] == [1, 2, 3, 4]
    assert [len(x) for x in inputs] == [2, 2, 1]


def test_a_folder_gives_its_images_by_name(predictor, tmp_path):
    for name in ("b.jpg", "a.JPG", ".hidden.jpg"):
        shutil.copy(example_image(), tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "sub.jpg").mkdir()
    shutil.copy(example_image(), tmp_path / "sub.jpg" / "c.png")
    found = predictor(tmp_path)
    assert list(found) == [str(tmp_path / x) for x in ("a.JPG", "b.jpg", "sub.jpg/c.png")]
    assert_same(found[str(tmp_path / "b.jpg")], predictor(example_image()))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no file in folder .*empty or below ends with \.jpg"):
        predictor(tmp_path / "empty")


def test_threshold_leaves_out_what_scores_less():
    everything = Predictor(MINI, device="cpu", threshold=0)(example_image())
    some = Predictor(MINI, device="cpu", threshold=0.4)(example_image())
    assert len(everything) == 100 and 0 < len(some) < 100
    assert_same(some, everything[everything.scores >= 0.4])
    assert everything.scores.diff().max() <= 0


def test_a_broken_file_is_an_error_or_is_passed_over(predictor, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(read_bytes()[:700])
    files = [example_image(), broken, tmp_path / "missing.jpg", example_image()]
    with pytest.raises(OSError, match=r"broken\.jpg"):
        predictor(files)
    failed = []
    found = list(predictor.stream(files, lambda *x: failed.append(x)))
    assert [x.source for x in found] == [example_image()] * 2
    assert [source for source, _ in failed] == files[1:3]
    assert all(str(source) in str(error) for source, error in failed)


def read_bytes():
    with open(example_image(), "rb") as file:
        return file.read()


@pytest.mark.parametrize(
    ("image", "error", "said"),
    [
        (torch.zeros(3, 8, 8), TypeError, "an image is a Tensor"),
        (np.zeros((8, 8, 3), np.float32), ValueError, r"\(8, 8, 3\) of float32, expected .* RGB"),
        (np.zeros((3, 8, 8), np.uint8), ValueError, r"\(3, 8, 8\) of uint8"),
        (np.zeros((0, 8, 3), np.uint8), ValueError, r"\(0, 8, 3\)"),
    ],
)
def test_arrays_of_other_shapes_or_types_are_refused(image, error, said):
    with pytest.raises(error, match=said):
        to_rgb(image)


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        (dict(config="coco/sam_detr_r50_12ep"), ConfigError, "no checkpoint for coco/sam_detr_r50"),
        (dict(config=MINI, device="gpu"), ConfigError, "train.device=gpu"),
        (dict(config=MINI, threshold=1.5), ValueError, "threshold is 1.5, expected 0 to 1"),
        (dict(config=MINI, batch_size=0), ValueError, "batch_size is 0"),
    ],
)
def test_bad_arguments_are_refused(arguments, error, said):
    with pytest.raises(error, match=said):
        Predictor(**arguments)


def test_a_saved_run_predicts_with_its_config_and_checkpoint(predictor, tmp_path):
    cfg = model_zoo.get_config(MINI)
    file, weights = tmp_path / "config.yaml", tmp_path / "model.pth"
    LazyConfig.save(cfg, str(file))
    torch.save({"model": predictor.model.state_dict()}, weights)
    expected = predictor(example_image())
    for config in (file, cfg):
        assert_same(Predictor(config, weights, "cpu", 0.3)(example_image()), expected)
        with pytest.raises(ConfigError, match="no checkpoint for"):
            Predictor(config)
