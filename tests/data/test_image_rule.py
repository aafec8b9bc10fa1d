"""Trainer, predictor and onnx_demo.py read an image by one rule, and dark images are told."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import numpy as np
import pytest
from detectron2.config import LazyConfig
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bad_images import KINDS, encoded, make, seeds
from command_line import train_net
from samdetr.data import DetectionMapper, ImageError, build_train_loader, read_image
from samdetr.data.bands import image_size
from samdetr.data.images import warn_of_dark_images
from samdetr.engine import main
from samdetr.predictor import image_files, to_rgb

ROOT = Path(__file__).parents[2]
INPUTS = ROOT / "tests/data/inputs"
ORIENTATION = 0x0112


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("images") / "image"


def mapper(white=None):
    return DetectionMapper(True, augmentations=[], image_format="RGB", white=white)


def assert_all_read(file, expected, white=None):
    """Training, detection and the script for exported models read `expected`, without warnings."""
    onnx_demo = pytest.importorskip("onnxruntime") and __import__("onnx_demo")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mapped = mapper(white)({"file_name": str(file)})["image"]
        np.testing.assert_array_equal(mapped.permute(1, 2, 0), expected)
        np.testing.assert_array_equal(to_rgb(file, white), expected)
        np.testing.assert_array_equal(np.asarray(onnx_demo.read(str(file), white)), expected)


def save(file, pixels):
    Image.fromarray(pixels).save(file, "TIFF" if pixels.dtype.kind == "f" else "PNG")


@given(st.sampled_from(KINDS), seeds, st.sampled_from([None, 4095]), st.integers(0, 9))
def test_images_of_every_kind_are_read_alike(file, kind, seed, white, orientation):
    file_format, mode = kind
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    settings = {"exif": exif} if file_format in ("PNG", "TIFF", "WEBP") else {}
    file.write_bytes(encoded(make(mode, (7, 5), seed)[0], file_format, **settings))
    expected = read_image(str(file), white=white)
    assert expected.shape == ((7, 5, 3) if settings and 5 <= orientation <= 8 else (5, 7, 3))
    assert image_size(file) == expected.shape[1::-1]
    assert_all_read(file, expected, white)


def test_grey_of_16_bits_is_grey_of_8_bits():
    expected = np.asarray(Image.open(INPUTS / "grey8.png").convert("RGB"))
    for name in ("grey8.png", "grey16.png"):
        assert_all_read(INPUTS / name, expected)
    deep = np.asarray(Image.open(INPUTS / "grey16.png"))
    assert deep.dtype == np.uint16
    np.testing.assert_array_equal(to_rgb(deep), expected)


@pytest.mark.parametrize("transparency", [0, bytes(range(0, 256, 2))])
def test_a_transparent_palette_keeps_its_colours(file, transparency):
    image, expected = make("P", (7, 5), 0)
    file.write_bytes(encoded(image, "PNG", transparency=transparency))
    assert_all_read(file, expected)


@pytest.mark.parametrize(
    ("pixels", "white", "expected"),
    [
        (np.uint16([0, 15, 16, 2048, 4095, 5000]), 4095, [0, 0, 1, 128, 255, 255]),
        (np.float32([-1, 0, np.nan, 0.5, 1, np.inf]), 1.0, [0, 0, 0, 128, 255, 255]),
        (np.uint8([0, 1, 7, 8, 15, 255]), 15, [0, 17, 119, 136, 255, 255]),
        (np.uint8([0, 1, 7, 8, 15, 255]), 4095, [0, 1, 7, 8, 15, 255]),
    ],
)
def test_white_is_the_value_that_becomes_255(file, pixels, white, expected):
    save(file, pixels[None])
    assert read_image(str(file), white=white)[0].tolist() == [[x] * 3 for x in expected]
    assert_all_read(file, read_image(str(file), white=white), white)


def test_both_demos_find_the_same_files(tmp_path):
    onnx_demo = pytest.importorskip("onnxruntime") and __import__("onnx_demo")
    for name in ("b.png", "a/c.JPG", "a/notes.txt", ".hidden/d.png", "a/.e.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = onnx_demo.image_files(tmp_path)
    assert found == image_files([tmp_path]) == [tmp_path / "a/c.JPG", tmp_path / "b.png"]
    assert onnx_demo.image_files(tmp_path / "a/notes.txt") == [tmp_path / "a/notes.txt"]


def test_floats_without_a_white_are_refused_everywhere(file):
    onnx_demo = pytest.importorskip("onnxruntime") and __import__("onnx_demo")
    save(file, np.float32([[0.5]]))
    with pytest.raises(ImageError, match="floating-point: set dataloader.*mapper.white"):
        to_rgb(file)
    with pytest.raises(ValueError, match="floating-point"):
        onnx_demo.read(str(file), None)


@pytest.mark.parametrize("white", [0, -1, float("nan"), float("inf")])
def test_a_white_that_is_none_is_refused(white):
    with pytest.raises(ValueError, match="white is .*, must be a positive number"):
        mapper(white)


def load(folder, images, mapper):
    records = []
    for index, pixels in enumerate(images):
        save(folder / f"{index}.png", pixels)
        records.append({"file_name": str(folder / f"{index}.png"), "width": 1, "height": 1})
    build_train_loader(records, mapper=mapper, total_batch_size=1, seed=0)


@pytest.mark.parametrize(
    ("value", "white"), [(4000, 4095), (16383, 16383), (17000, None), (65535, None), (0, None)]
)
def test_a_range_far_below_the_depth_is_told_once_with_the_key(tmp_path, caplog, value, white):
    dark = np.uint16([[value // 2]])
    load(tmp_path, [dark] * 12 + [np.uint16([[value]])] * 8, mapper())
    told = [x.getMessage() for x in caplog.records if x.levelno >= logging.WARNING]
    assert len(told) == (white is not None)
    assert all(f"is {value}" in x and f"dataloader.train.mapper.white={white}" in x for x in told)


def test_dark_colours_are_told_and_broken_images_are_left_to_the_loader(tmp_path, caplog):
    (tmp_path / "broken").mkdir()
    load(tmp_path, [np.full((1, 1, 3), 15, np.uint8), np.uint8([[7]])], mapper())
    assert "dataloader.train.mapper.white=15" in caplog.text
    caplog.clear()
    load(tmp_path, [np.uint8([[7]])], mapper(white=15))
    records = [{"file_name": str(tmp_path / "broken"), "width": 1, "height": 1}]
    build_train_loader(records, mapper=mapper(), total_batch_size=1, seed=0)
    assert not [x for x in caplog.records if x.levelno >= logging.WARNING]


def test_few_of_many_images_are_looked_at(monkeypatch):
    opened = []
    monkeypatch.setattr(Image, "open", lambda file: opened.append(file.name))
    warn_of_dark_images([__file__] * 1001)
    assert len(opened) == 8


@pytest.mark.parametrize(("own", "expected"), [([], 4095), (["dataloader.test.mapper.white=7"], 7)])
def test_test_images_have_the_white_of_training_unless_they_have_their_own(
    tmp_path, monkeypatch, own, expected
):
    monkeypatch.setitem(main.__globals__, "train", lambda *_: {})
    config = ("--config-file", ROOT / "configs/mini/sam_detr_smca.py")
    overrides = [f"train.output_dir={tmp_path}", "dataloader.train.mapper.white=4095", *own]
    assert train_net(*config, *overrides) == 0
    saved = LazyConfig.load(str(tmp_path / "config.yaml")).dataloader
    assert saved.train.mapper.white == 4095 and saved.test.mapper.white == expected


def test_a_file_for_other_channels_than_rgb_is_refused(tmp_path, monkeypatch):
    onnx_demo = pytest.importorskip("onnxruntime") and __import__("onnx_demo")

    class Session:
        custom_metadata_map = {onnx_demo.DESCRIPTION: '{"pixel_mean": [110, 110, 90, 70]}'}

        def __init__(self, path, providers):
            self.get_modelmeta = lambda: self

    monkeypatch.setattr(onnx_demo.onnxruntime, "InferenceSession", Session)
    (tmp_path / "model.onnx").touch()
    with pytest.raises(ValueError, match="4 channels"):
        onnx_demo.Detector(str(tmp_path / "model.onnx"))
