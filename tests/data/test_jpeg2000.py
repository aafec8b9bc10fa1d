"""JPEG 2000: images of every layout are read, and small files that ask for much memory are not."""

import struct

import numpy as np
import pytest
from PIL import Image, ImageFile

from bad_images import encoded, make
from samdetr.data import ImageError, read_image

COD, COC, SOT = b"\xff\x52", b"\xff\x53", b"\xff\x90"


@pytest.mark.parametrize("bare", [True, False])
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tile_size": (32, 48), "num_resolutions": 2},
        {"precinct_size": (32, 32), "codeblock_size": (16, 16), "progression": "RPCL"},
        {"codeblock_size": (4, 4), "num_resolutions": 1, "plt": True, "comment": "a"},
        {"quality_layers": [0], "quality_mode": "rates", "progression": "CPRL"},
    ],
)
def test_every_layout_is_read(tmp_path, bare, mode, options):
    image, expected = make(mode, (150, 130), 0)
    file = tmp_path / "a.jp2"
    file.write_bytes(encoded(image, "JPEG2000", no_jp2=bare, **options))
    np.testing.assert_array_equal(read_image(str(file)), expected)


def bomb(size, code_block=0, precinct=0x88, tile=None, mode="RGB", bare=True):
    """A file that says it has blocks of so many pixels: exponents of two, less two in the first."""
    image = Image.new(mode, (16, 16))
    options = {"num_resolutions": 1, "precinct_size": (16, 16), "codeblock_size": (4, 4)}
    content = bytearray(encoded(image, "JPEG2000", no_jp2=bare, **options))
    place = content.index(b"\xff\x51")
    content[place + 6 : place + 14] = struct.pack(">II", *size)
    content[place + 22 : place + 30] = struct.pack(">II", *tile or size)
    place = content.index(COD)
    content[place + 10 : place + 12] = bytes([code_block, code_block])
    content[place + 14] = precinct
    return bytes(content)


def in_tile(content, segment, length=None):
    """The same with a segment in the header of the part of the tile."""
    place = content.index(SOT)
    part = struct.unpack(">I", content[place + 6 : place + 10])[0] + len(segment)
    start = content[: place + 6] + struct.pack(">I", part if length is None else length)
    return start + content[place + 10 : place + 12] + segment + content[place + 12 :]


SMALL = bomb((9000, 9000), 4)
STYLE = b"\0\0\0\0"  # of a segment: halvings, exponents of two of a block, how it is coded
BOMBS = {
    "small blocks": (bomb((9000, 9000)), "tiles of 15187500 code blocks, more than 1048576"),
    "small precincts": (bomb((2000, 2000), 4, 0x00), "tiles of 12000000 code blocks"),
    "flat precincts": (bomb((9000, 9000), 4, 0x08), "tiles of 3807000 code blocks"),
    "small blocks in a tile": (
        in_tile(SMALL, COD + b"\0\x0c" + b"\0\0\0\1\0" + STYLE + b"\1"),
        "tiles of 15187500 code blocks",
    ),
    "small blocks of a component": (
        in_tile(SMALL, COC + b"\0\x09" + b"\0\0" + STYLE + b"\1"),
        "tiles of 15187500 code blocks",
    ),
    "a marker of none": (in_tile(SMALL, b"\xff\x30\0\4\0\0"), "a marker 0xff30 of 4 bytes"),
    "a marker without a length": (in_tile(SMALL, b"\xff\x64\0\0"), "a marker 0xff64 of 0 bytes"),
    "a part that is too short": (in_tile(SMALL, b"\xff\x64\0\4\0\0", 15), "is shorter than its"),
    "a part of almost nothing": (in_tile(SMALL, b"", 12), "is shorter than its header"),
    "many tiles": (bomb((9000, 9000), 4, tile=(40, 40)), "50625 tiles, more than 16384"),
}


@pytest.mark.parametrize(("content", "message"), BOMBS.values(), ids=BOMBS)
def test_a_small_file_cannot_ask_for_much_memory(tmp_path, monkeypatch, content, message):
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("it was decoded"))
    file = tmp_path / "a.jp2"
    file.write_bytes(content)
    assert len(content) < 1000
    with pytest.raises(ImageError, match=message):
        read_image(str(file))


def test_what_the_box_around_a_codestream_says_of_its_size_does_not_count(tmp_path, monkeypatch):
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("it was decoded"))
    file = tmp_path / "a.jp2"
    file.write_bytes(bomb((9000, 9000), bare=False))  # 16 x 16 outside
    with Image.open(file) as opened:
        assert opened.size == (16, 16)
    with pytest.raises(ImageError, match="tiles of 15187500 code blocks"):
        read_image(str(file))
