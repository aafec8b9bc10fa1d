"""Whatever a file has in it, it is read as it is or refused by name: nothing else, and no waiting.

Truncated or tampered images, odd EXIF blocks, what is no image at all, and decompression bombs.
"""

from __future__ import annotations

import os
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.data import build_detection_test_loader
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFile

from bad_images import (
    EXTREMES,
    IN_MEMORY,
    KINDS,
    chunk,
    claiming,
    encoded,
    make,
    seeds,
    sizes,
    tolerance,
)
from samdetr import Predictor
from samdetr.data import DetectionMapper, ImageError, convert_image, read_image
from samdetr.predictor import to_rgb

ROOT = Path(__file__).parents[1]
ORIENTATION = 0x0112
LOSSY = ["JPEG", "WEBP"]
COCO = LazyConfig.load(str(ROOT / "configs" / "common" / "data.py")).dataloader


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A file that every example writes anew, named with a wrong suffix."""
    return tmp_path_factory.mktemp("images") / "image.jpg"


@pytest.fixture(scope="module")
def mappers():
    return {
        part: DetectionMapper(
            part == "train",
            augmentations=list(instantiate(COCO[part].mapper.augmentations)),
            image_format="RGB",
        )
        for part in ("train", "test")
    }


@pytest.fixture(scope="module")
def predictor():
    return Predictor("mini/sam_detr_smca", device="cpu", threshold=0)


def entry(file, width, height):
    box = {"bbox": [0, 0, width, height], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}
    return {"file_name": str(file), "annotations": [box]}


def read_or_refused(file):
    """The pixels, or None after the right error."""
    try:
        image = read_image(str(file))
    except ImageError as error:
        assert str(error).startswith(f"cannot read image {file}: ") and "\n" not in str(error)
        assert "0x" not in str(error)  # what it says is the same each time
        return None
    assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.size
    return image


@given(st.sampled_from(KINDS), sizes, seeds)
def test_every_mode_and_format_is_read_as_its_definition_says(file, kind, size, seed):
    file_format, mode = kind
    image, expected = make(mode, size, seed)
    file.write_bytes(encoded(image, file_format))

    found = read_image(str(file))

    assert found.dtype == np.uint8 and found.shape == expected.shape
    np.testing.assert_allclose(found.astype(int), expected, rtol=0, atol=tolerance(mode))
    np.testing.assert_array_equal(to_rgb(file), found)
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


@given(st.sampled_from(["TIFF", "PPM"]), sizes, seeds)
def test_floating_point_is_refused(file, file_format, size, seed):
    values = np.random.default_rng(seed).normal(size=size[::-1]).astype(np.float32)
    file.write_bytes(encoded(Image.fromarray(values), file_format))
    assert read_or_refused(file) is None
    with pytest.raises(ImageError, match="of Pillow: its pixels are floating-point"):
        convert_image(Image.fromarray(values))


@given(st.sampled_from(KINDS), sizes, seeds, st.sampled_from(["train", "test"]))
def test_the_pipelines_of_coco_see_those_pixels(file, mappers, kind, size, seed, part):
    file_format, mode = kind
    image, _ = make(mode, size, seed)
    file.write_bytes(encoded(image, file_format))
    augmented = T.AugInput(convert_image(Image.open(file)))
    np.random.seed(seed)
    T.AugmentationList(mappers[part].augmentations.augs)(augmented)

    np.random.seed(seed)
    mapped = mappers[part](entry(file, *size))

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
    file, mappers, file_format, orientation, seed
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
    mapped = mappers["train"](record)
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
def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path, how, mappers, predictor):
    path = tmp_path / "a.jpg"
    make_odd(path, how)
    readers = [read_image, lambda x: mappers["train"](entry(x, 9, 9)), to_rgb]
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
def test_evaluation_ends_at_an_image_that_cannot_be_read(tmp_path, mappers, broken):
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
    loader = iter(build_detection_test_loader(records, mapper=mappers["test"], num_workers=0))
    assert next(loader)[0]["image_id"] == 0
    with pytest.raises(ImageError, match=f"cannot read image {path}"):
        next(loader)
