"""Whatever a file has in it, it is read as it is or refused by name: nothing else, and no waiting.

Truncated or tampered images, what is no image at all, and decompression bombs.
"""

from __future__ import annotations

import os
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import torch
from detectron2.data import build_detection_test_loader
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFile

from bad_images import (
    EXTREMES,
    KINDS,
    chunk,
    claiming,
    coco_mappers,
    encoded,
    entry,
    make,
    seeds,
)
from samdetr import Predictor
from samdetr.data import ImageError, read_image
from samdetr.predictor import to_rgb


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A file that every example writes anew, named with a wrong suffix."""
    return tmp_path_factory.mktemp("images") / "image.jpg"


@pytest.fixture(scope="module")
def predictor():
    return Predictor("mini/sam_detr_smca", device="cpu", threshold=0)


def read_or_refused(file):
    """The pixels, or None after the right error."""
    try:
        image = read_image(str(file))
    except ImageError as error:
        assert str(error).startswith(f"cannot read image {file}: ") and "\n" not in str(error)
        assert " at 0x" not in str(error)  # what it says is the same each time
        return None
    assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.size
    return image


BROKEN = [*KINDS, ("JPEG", "RGB"), ("JPEG", "CMYK"), ("WEBP", "lossy"), ("AVIF", "RGB")]


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
    st.booleans(),
)
def test_an_image_with_other_bytes_is_read_or_refused(file, kind, seed, changes, at_start):
    content = bytearray(sound(kind, seed))
    reach = min(len(content), 64) if at_start else len(content)
    for place, byte in changes:
        content[int(place * reach)] = byte
    file.write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image, "MAX_IMAGE_PIXELS", 10**6)  # not to wait for images of nothing
        found = read_or_refused(file)
    assert found is None or found.shape[0] * found.shape[1] <= 10**6


MAGIC = [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"BM", b"II*\0", b"P6 ", b"RIFF"]


@given(st.sampled_from(MAGIC), st.binary(max_size=200) | st.text(max_size=80).map(str.encode))
def test_what_is_no_image_is_read_or_refused(file, start, rest):
    file.write_bytes(start + rest)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image, "MAX_IMAGE_PIXELS", 10**6)
        read_or_refused(file)


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.mark.parametrize(
    "content",
    [b"", b"hello", b"<!DOCTYPE html><html><body>404</body></html>", b"\0" * 4096, EPS],
    ids=["empty", "text", "html", "zeros", "program"],
)
def test_what_is_no_picture_says_what_would_be_one(file, content):
    file.write_bytes(content)
    with pytest.raises(ImageError, match=f"{file}: it is none of JPEG, PNG, .*GIF"):
        read_image(str(file))


def make_odd(path, how):
    """Something of that name which is no file, or cannot be opened."""
    if how == "folder":
        path.mkdir()
    elif how == "pipe":
        os.mkfifo(path)
    else:
        targets = {"device": "/dev/zero", "link to nothing": "nothing", "loop": path.name}
        path.symlink_to(targets[how])


@pytest.mark.parametrize("how", ["folder", "pipe", "device", "link to nothing", "loop"])
def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path, how, predictor):
    path = tmp_path / "a.jpg"
    make_odd(path, how)
    readers = [read_image, lambda x: coco_mappers()["train"](entry(x, 9, 9)), to_rgb]
    if how != "folder":  # whose images it would take
        readers.append(predictor)
    for read in readers:
        with pytest.raises(ImageError, match=f"cannot read image {path}: "):
            read(str(path))


@pytest.mark.parametrize("name", ["a\0b.jpg", "", "x" * 5000, "nowhere/a.jpg", "\udcff.jpg"])
def test_a_name_that_cannot_be_is_refused(name):
    with pytest.raises(ImageError, match="cannot read image"):
        read_image(name)


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "GIF", "BMP", "PPM", "TIFF"])
@pytest.mark.parametrize("size", [(10_000, 10_000), (50_000, 50_000), (65_000, 1_400)])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_bomb_is_refused_before_its_pixels_are_decoded(file, monkeypatch, file_format, size):
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("it was decoded"))
    file.write_bytes(claiming(file_format, *size))
    with pytest.raises(ImageError, match=f"{file}: ") as error:
        read_image(str(file))
    width, height = size
    said = str(error.value)
    assert f"{width} x {height}" in said or str(width * height) in said
    assert "MAX_IMAGE_PIXELS" in said and "89478485" in said


def tiled(sides, order="<", large=False, pixel=(1, 2, 3)):
    """A TIFF of 16 x 16 pixels with one deflated tile of 16 x 16.

    Args:
        sides: pairs of width and height that the directory gives for the tile, one after another.
        large: if it is a BigTIFF.
    """
    data = zlib.compress(bytes(pixel) * 256)
    values = [(256, 16), (257, 16), (258, 8), (259, 8), (262, 2), (277, 3), (284, 1)]
    values += [(322 + x, side) for pair in sides for x, side in enumerate(pair)]
    values += [(324, 0), (325, len(data))]
    word = "Q" if large else "I"
    head = struct.pack(f"{order}HHHQ", 43, 8, 0, 16) if large else struct.pack(f"{order}HI", 42, 8)
    head = (b"II" if order == "<" else b"MM") + head
    count, entry_size = ("Q", 20) if large else ("H", 12)
    size = struct.calcsize(f"{order}{count}{word}") + entry_size * len(values)
    entries = b""
    for tag, value in values:
        if tag == 258:  # bits per sample, of three samples, after the directory
            number, value = 3, len(head) + size
            field = struct.pack(f"{order}{word}", value)
            if large:
                field = struct.pack(f"{order}HHHH", 8, 8, 8, 0)
            entries += struct.pack(f"{order}HH{word}", tag, 3, number) + field
            continue
        value = len(head) + size + 6 if tag == 324 else value
        field = struct.pack(f"{order}I", value).ljust(8 if large else 4, b"\0")
        entries += struct.pack(f"{order}HH{word}", tag, 4, 1) + field
    directory = struct.pack(f"{order}{count}", len(values)) + entries + bytes(8 if large else 4)
    return head + directory + struct.pack(f"{order}HHH", 8, 8, 8) + data


# Pillow reads no BigTIFF of the other order of bytes.
@pytest.mark.parametrize(("order", "large"), [("<", False), (">", False), ("<", True)])
def test_the_tiles_of_a_small_image_may_not_be_large(file, monkeypatch, order, large):
    file.write_bytes(tiled([(16, 16)], order, large))
    assert (read_image(str(file)) == [1, 2, 3]).all()
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("it was decoded"))
    # Of two tags of the same kind one reader takes the first, another the last.
    for sides in ([(26_400, 26_400)], [(26_400, 26_400), (16, 16)], [(16, 16), (26_400, 26_400)]):
        file.write_bytes(tiled(sides, order, large))
        with pytest.raises(ImageError, match="tiles of 696960000 pixels, and PIL.Image.MAX_IMAGE"):
            read_image(str(file))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_the_largest_image_is_a_setting_of_pillow(file, monkeypatch):
    file.write_bytes(encoded(Image.new("RGB", (20, 10)), "PNG"))
    for limit, is_read in ((199, False), (200, True), (None, True)):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        assert (read_or_refused(file) is not None) == is_read


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP"])
@pytest.mark.parametrize("after", [False, True])
def test_a_compressed_note_in_an_image_does_not_fill_the_memory(file, kind, after):
    bomb = zlib.compress(bytes(200 * 2**20))
    start = {b"zTXt": b"a\0\0", b"iTXt": b"a\0\1\0\0\0", b"iCCP": b"a\0\0"}[kind]
    image, expected = make("RGB", (9, 7), 0)
    content = encoded(image, "PNG")
    place = content.index(b"IEND") - 4 if after else 33
    file.write_bytes(content[:place] + chunk(kind, start + bomb) + content[place:])
    tracemalloc.start()
    try:
        found = read_or_refused(file)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found is None or np.array_equal(found, expected)
    assert peak < 20 * 2**20


def test_a_broken_image_of_pillow_is_refused_by_its_name(file, predictor):
    image, _ = make("RGB", (100, 100), 0)  # larger than what is read ahead
    for file_format in ("PNG", "JPEG", "TIFF", "BMP", "PPM"):
        content = encoded(image, file_format)
        file.write_bytes(content)
        opened = Image.open(file)
        with file.open("r+b") as cut:
            cut.truncate(len(content) // 2)
        with pytest.raises(ImageError, match=f"cannot read image {file}: "):
            predictor(opened)
        opened.close()


@pytest.mark.parametrize("size", [*EXTREMES, (2, 3), (1, 65_600)])
def test_the_predictor_takes_images_of_any_shape(file, predictor, size):
    image, _ = make("RGB", size, 0)
    file.write_bytes(encoded(image, "PNG"))
    found = predictor(file)
    assert found.image_size == size[::-1] and len(found) == 100
    boxes = found.pred_boxes.tensor
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    assert boxes.isfinite().all() and (boxes[:, 2:] > boxes[:, :2]).all()
    assert (centre > 0).all() and (centre < torch.tensor(size)).all()


@pytest.mark.parametrize("broken", ["truncated", "missing", "text"])
def test_evaluation_ends_at_an_image_that_cannot_be_read(tmp_path, broken):
    records = []
    for index in range(3):
        path = tmp_path / f"{index}.png"
        path.write_bytes(encoded(make("RGB", (30, 20), index)[0], "PNG"))
        records.append({**entry(path, 30, 20), "image_id": index})
    path = tmp_path / "1.png"
    content = {"truncated": path.read_bytes()[:-90], "text": b"hello"}.get(broken)
    path.unlink()
    if content:
        path.write_bytes(content)
    loader = iter(
        build_detection_test_loader(records, mapper=coco_mappers()["test"], num_workers=0)
    )
    assert next(loader)[0]["image_id"] == 0
    with pytest.raises(ImageError, match=f"cannot read image {path}"):
        next(loader)
