"""Images of every mode, format and orientation are read as they are, and boxes follow them."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bad_images import (
    IN_MEMORY,
    KINDS,
    coco_mappers,
    encoded,
    entry,
    make,
    seeds,
    sizes,
    tolerance,
)
from samdetr.data import ImageError, convert_image, read_image

ORIENTATION = 0x0112
LOSSY = ["JPEG", "WEBP"]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A file that every example writes anew, named with a wrong suffix."""
    return tmp_path_factory.mktemp("images") / "image.jpg"


@given(st.sampled_from(KINDS), sizes, seeds)
def test_every_mode_and_format_is_read_as_its_definition_says(file, kind, size, seed):
    file_format, mode = kind
    image, expected = make(mode, size, seed)
    file.write_bytes(encoded(image, file_format))

    found = read_image(str(file))

    assert found.dtype == np.uint8 and found.shape == expected.shape
    np.testing.assert_allclose(found.astype(int), expected, rtol=0, atol=tolerance(mode))
    np.testing.assert_array_equal(read_image(str(file), "BGR"), found[..., ::-1])


@given(st.sampled_from(IN_MEMORY), sizes, seeds)
def test_an_image_of_pillow_of_any_mode_is_converted_as_its_definition_says(mode, size, seed):
    image, expected = make(mode, size, seed)
    found = convert_image(image)
    np.testing.assert_allclose(found.astype(int), expected, rtol=0, atol=tolerance(mode))


@given(st.sampled_from([*LOSSY, "JPEG2000"]), sizes, st.tuples(*[st.integers(0, 255)] * 3))
def test_lossy_formats_keep_an_even_colour(file, file_format, size, colour):
    image = Image.new("RGB", size, colour)
    settings = {"quality": 100, "lossless": False} if file_format == "WEBP" else {}
    settings = {"quality": 100, "subsampling": 0} if file_format == "JPEG" else settings
    file.write_bytes(encoded(image, file_format, **settings))
    found = read_image(str(file))
    assert found.shape == (size[1], size[0], 3)
    assert np.abs(found.astype(int) - colour).max() <= 6


@given(st.integers(0, 255), st.binary(min_size=1, max_size=256), sizes, seeds)
def test_transparency_of_palettes_is_ignored(file, index, alphas, size, seed):
    image, expected = make("P", size, seed)
    for transparency in (index, alphas):
        for file_format in ("PNG", "GIF") if isinstance(transparency, int) else ("PNG",):
            file.write_bytes(encoded(image, file_format, transparency=transparency))
            np.testing.assert_array_equal(read_image(str(file)), expected)


@given(st.sampled_from(["GIF", "PNG", "WEBP", "TIFF"]), st.integers(2, 4), seeds)
def test_of_an_animation_the_first_picture_is_read(file, file_format, count, seed):
    grey = file_format == "GIF"
    made = [make("L" if grey else "RGB", (13, 9), (seed + i) % 2**32) for i in range(count)]
    images, pixels = zip(*made)
    settings = {"save_all": True, "append_images": images[1:]}
    file.write_bytes(encoded(images[0], file_format, **settings))
    assert Image.open(file).n_frames == count
    np.testing.assert_array_equal(read_image(str(file)), pixels[0])


def test_floating_point_is_refused(file):
    image = Image.fromarray(np.ones((3, 4), np.float32))
    file.write_bytes(encoded(image, "TIFF"))
    with pytest.raises(ImageError, match=f"{file}: its pixels are floating-point"):
        read_image(str(file))
    with pytest.raises(ImageError, match="from Pillow: its pixels are floating-point"):
        convert_image(image)


@given(st.sampled_from(KINDS), sizes, seeds, st.sampled_from(["train", "test"]))
def test_the_pipelines_of_coco_see_those_pixels(file, kind, size, seed, part):
    file_format, mode = kind
    image, _ = make(mode, size, seed)
    file.write_bytes(encoded(image, file_format))
    augmented = T.AugInput(convert_image(Image.open(file)))
    np.random.seed(seed)
    T.AugmentationList(coco_mappers()[part].augmentations.augs)(augmented)

    np.random.seed(seed)
    mapped = coco_mappers()[part](entry(file, *size))

    expected = torch.from_numpy(np.ascontiguousarray(augmented.image.transpose(2, 0, 1)))
    assert mapped["image"].dtype == torch.uint8 and torch.equal(mapped["image"], expected)
    assert (mapped["width"], mapped["height"]) == size
    if part == "train":  # what is left of the whole image is the whole of what is left
        height, width = mapped["image"].shape[1:]
        assert len(mapped["instances"]) == 1
        (box,) = mapped["instances"].gt_boxes.tensor
        torch.testing.assert_close(box, torch.tensor([0.0, 0, width, height]), rtol=0, atol=1.0)


def turned(pixels, orientation):
    """What a viewer shows, by the table of the EXIF standard: where row and column 0 are."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels[:, ::-1] if orientation in (2, 3, 6, 7) else pixels


def exif_block(orientation, kind=3, count=1):
    """With an orientation of 4 bytes or less, of an EXIF type, 3 being a short integer."""
    value = orientation if isinstance(orientation, bytes) else struct.pack("<HH", orientation, 0)
    return b"Exif\0\0II*\0\x08\0\0\0\1\0" + struct.pack("<HHI", ORIENTATION, kind, count) + value


@given(st.sampled_from(["PNG", "JPEG", "WEBP", "TIFF"]), st.integers(0, 9), seeds)
def test_images_are_turned_as_their_exif_block_says_and_boxes_with_them(
    file, file_format, orientation, seed
):
    random = np.random.default_rng(seed)
    width, height = random.integers(24, 64, 2)
    left, top = random.integers(0, width // 2), random.integers(0, height // 2)
    stored = np.zeros((height, width, 3), np.uint8)
    stored[top : top + 10, left : left + 9] = 255
    settings = {"quality": 100, "subsampling": 0} if file_format == "JPEG" else {}
    exif = exif_block(orientation) + bytes(4)
    if file_format == "TIFF":
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
    file.write_bytes(encoded(Image.fromarray(stored), file_format, exif=exif, **settings))
    expected = turned(stored, orientation)  # 0 and 9 are none, and turn nothing

    assert same(read_image(str(file)), expected)
    rows, columns = (x.nonzero()[0] for x in (expected[..., 0].any(1), expected[..., 0].any(0)))
    record = entry(file, *expected.shape[1::-1])
    record["annotations"][0]["bbox"] = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    np.random.seed(seed)
    mapped = coco_mappers()["train"](record)
    white = (mapped["image"][0] > 127).nonzero()
    if len(white):
        (box,) = mapped["instances"].gt_boxes.tensor
        (top, left), (bottom, right) = white.amin(0), white.amax(0) + 1
        expected = torch.tensor([left, top, right, bottom]).float()
        # Half of a pixel as stored, which is up to 40 as resized; a wrong turn is off by more.
        torch.testing.assert_close(box, expected, rtol=0, atol=20)


def same(found, expected):
    """Also of a JPEG, which blurs."""
    return found.shape == expected.shape and np.abs(found.astype(int) - expected).max() < 60


@given(
    st.sampled_from(["PNG", "JPEG", "WEBP"]),
    st.sampled_from([b"", b"Exif\0\0", b"Exif\0\0II*\0\x08\0\0\0", b"Exif\0\0MM\0*\0\0\0\x08"])
    | st.builds(
        exif_block, st.binary(min_size=4, max_size=4), st.integers(0, 14), st.integers(0, 2**32 - 1)
    ),
    st.binary(max_size=120),
)
def test_a_broken_exif_block_is_no_reason_to_lose_the_image(file, file_format, start, rest):
    stored = np.zeros((20, 30, 3), np.uint8)
    stored[2:9, 3:20] = 255
    settings = {"quality": 100, "subsampling": 0} if file_format == "JPEG" else {}
    file.write_bytes(encoded(Image.fromarray(stored), file_format, exif=start + rest, **settings))
    found = read_image(str(file))
    assert any(same(found, turned(stored, x)) for x in range(1, 9))
