"""Images of every mode, format and orientation are read as they are, and boxes follow them."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bad_images import (
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


def test_floating_point_is_refused(file):
    image = Image.fromarray(np.ones((3, 4), np.float32))
    file.write_bytes(encoded(image, "TIFF"))
    with pytest.raises(ImageError, match=f"{file}: its pixels are floating-point"):
        read_image(str(file))
    with pytest.raises(ImageError, match="from Pillow: its pixels are floating-point"):
        convert_image(image)


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
