"""Damaged files and files of something else: read as they are, or named."""

from __future__ import annotations

import numpy as np
import pytest
from detectron2.data import build_detection_test_loader
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bad_images import KINDS, coco_mappers, encoded, entry, make, seeds
from samdetr.data import ImageError, read_image


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A file that every example writes anew, named with a wrong suffix."""
    return tmp_path_factory.mktemp("images") / "image.jpg"


def read_or_refused(file):
    """The pixels, or None after the right error."""
    try:
        image = read_image(str(file))
    except ImageError as error:
        assert str(error).startswith(f"cannot read image {file}: ") and "\n" not in str(error)
        return None
    assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.size
    return image


BROKEN = [*KINDS, ("JPEG", "RGB"), ("JPEG", "CMYK"), ("WEBP", "lossy")]


def sound(kind, seed):
    """The bytes of an image in a format, compressed or not, progressive or not."""
    file_format, mode = kind
    image, _ = make({"lossy": "RGB"}.get(mode, mode), (23, 17), seed)
    settings = {"lossless": False} if mode == "lossy" else {}
    if file_format == "JPEG":
        settings = {"progressive": seed % 2 == 0}
    if file_format == "TIFF" and mode not in ("1", "I", "I;16B", "LAB", "YCbCr"):
        settings = {"compression": ["raw", "tiff_lzw", "tiff_deflate", "packbits"][seed % 4]}
    return encoded(image, file_format, **settings)


@given(st.sampled_from(BROKEN), seeds, st.floats(0, 1, exclude_max=True))
def test_a_truncated_image_is_refused_unless_all_its_pixels_are_there(file, kind, seed, part):
    content = sound(kind, seed)
    file.write_bytes(content)
    whole = read_image(str(file))
    file.write_bytes(content[: int(part * len(content))])
    found = read_or_refused(file)
    if found is not None:
        np.testing.assert_array_equal(found, whole)


@given(
    st.sampled_from(BROKEN),
    seeds,
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1),
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_an_image_with_other_bytes_is_read_or_refused(file, kind, seed, changes):
    content = bytearray(sound(kind, seed))
    for place, byte in changes:
        content[int(place * len(content))] = byte
    file.write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image, "MAX_IMAGE_PIXELS", 10**6)  # not to wait for large empty images
        read_or_refused(file)


@pytest.mark.parametrize("content", [b"", b"hello", b"<!DOCTYPE html>404", b"\0" * 4096])
def test_a_file_of_something_else_is_named(file, content):
    file.write_bytes(content)
    with pytest.raises(ImageError, match=f"cannot read image {file}: cannot identify"):
        read_image(str(file))


@pytest.mark.parametrize("name", ["a\0b.jpg", "", "nowhere/a.jpg"])
def test_a_name_without_a_file_is_named(tmp_path, name):
    with pytest.raises(ImageError, match="cannot read image"):
        read_image(name)
    with pytest.raises(ImageError, match=f"cannot read image {tmp_path}: Is a directory"):
        read_image(str(tmp_path))


@pytest.mark.parametrize("broken", ["truncated", "missing"])
def test_evaluation_ends_at_an_image_that_cannot_be_read(tmp_path, broken):
    records = []
    for index in range(3):
        path = tmp_path / f"{index}.png"
        path.write_bytes(encoded(make("RGB", (30, 20), index)[0], "PNG"))
        records.append({**entry(path, 30, 20), "image_id": index})
    path = tmp_path / "1.png"
    content = path.read_bytes()[:-90]
    path.unlink()
    if broken == "truncated":
        path.write_bytes(content)
    loader = iter(
        build_detection_test_loader(records, mapper=coco_mappers()["test"], num_workers=0)
    )
    assert next(loader)[0]["image_id"] == 0
    with pytest.raises(ImageError, match=f"cannot read image {path}"):
        next(loader)
