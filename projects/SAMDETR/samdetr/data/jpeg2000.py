"""What the decoding of a JPEG 2000 image takes, by its headers (ISO 15444-1, annexes A and I).

OpenJPEG, by which Pillow decodes, sets up all blocks of a tile before it reads one, in some 600
bytes for each. A block may have one pixel, and so a file of 500 bytes may ask for tens of GB.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

MOST_BLOCKS = 2**20  # of a tile. Usual ones have 64 x 64 pixels: 89 million in RGB have 87,000
MOST_TILES = 2**14
_SIZ, _COD, _COC, _SOT, _SOD, _EOC = 0xFF51, 0xFF52, 0xFF53, 0xFF90, 0xFF93, 0xFFD9
# Markers that are followed by a length. OpenJPEG goes on behind an unknown one as it sees fit.
_SEGMENTS = {_SIZ, _COD, _COC, _SOT, 0xFF50, 0xFF55, 0xFF57, 0xFF58, *range(0xFF5C, 0xFF62)}
_SEGMENTS |= {0xFF63, 0xFF64, 0xFF74, 0xFF75, 0xFF77, 0xFF78}


class _Tile(NamedTuple):
    """A tile: pixels, and the number of its components, which are colours and opacity."""

    width: int
    height: int
    components: int


def check_blocks(file: BinaryIO) -> None:
    """Sees that an image has at most MOST_TILES tiles, each of at most MOST_BLOCKS blocks.

    Raises:
        ValueError: it has more, or headers that are not as they should be.
    """
    _find_codestream(file)
    tile = None
    for marker, content in _segments(file):
        if (marker == _SIZ) != (tile is None):
            raise ValueError("its headers are in another order than JPEG 2000's")
        if tile is None:
            tile = _tile(content)
        elif marker in (_COD, _COC):
            blocks = _blocks(tile, content, 5 if marker == _COD else 2)
            if blocks > MOST_BLOCKS:
                raise ValueError(f"it has tiles of {blocks} code blocks, more than {MOST_BLOCKS}")


def _find_codestream(file: BinaryIO) -> None:
    """Go to the first segment, in a bare codestream or in the box of a file that has it."""
    file.seek(0)
    if file.read(2) == b"\xff\x4f":
        return
    file.seek(0)
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        read = 8
        if length == 1:
            length, read = int.from_bytes(file.read(8), "big"), 16
        if kind == b"jp2c":
            if file.read(2) == b"\xff\x4f":
                return
            break
        if length < read:
            break
        file.seek(length - read, 1)
    raise ValueError("it has no codestream")


def _segments(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Markers and contents of the headers of the image and of the parts of its tiles."""
    end = 0  # of a part of a tile
    while len(head := file.read(2)) == 2:
        marker = int.from_bytes(head, "big")
        if marker == _EOC or (marker == _SOD and end == 0):
            return  # 0 is for a part that goes on to the end
        if marker == _SOD:
            if file.tell() > end:
                raise ValueError("a part of a tile is shorter than its header")
            file.seek(end)
            continue
        length = int.from_bytes(file.read(2), "big")
        content = file.read(max(length - 2, 0))
        if marker not in _SEGMENTS or length < 2:
            raise ValueError(f"it has a marker {marker:#x} of {length} bytes")
        if marker == _SOT:
            part = int.from_bytes(content[2:6], "big")
            if 0 < part < 14:
                raise ValueError("a part of a tile is shorter than its header")
            end = file.tell() - 12 + part if part else 0
        yield marker, content


def _tile(content: bytes) -> _Tile:
    if len(content) < 36:
        raise ValueError("its size is missing")
    right, lower, left, upper, *tile, components = struct.unpack(">8IH", content[2:36])
    width, height, tile_left, tile_upper = tile
    if min(right - left, lower - upper, width, height) < 1 or not 1 <= components <= 4:
        raise ValueError("it has no pixels, or more than four components")
    tiles = -(-(right - tile_left) // width) * -(-(lower - tile_upper) // height)
    if tiles > MOST_TILES:
        raise ValueError(f"it has {tiles} tiles, more than {MOST_TILES}")
    return _Tile(min(width, right - left), min(height, lower - upper), components)


def _blocks(tile: _Tile, content: bytes, start: int) -> int:
    """Code blocks of a tile, in all resolutions, which are halves of each other.

    Args:
        content: of a segment of coding style.
        start: where it has the number of halvings and the exponents of the sides of blocks.
    """
    halvings, *block = content[start : start + 3]
    sizes = content[start + 5 : start + 6 + halvings]  # of precincts, which blocks are cut to
    if not content[0] & 1:
        sizes = b"\xff" * (halvings + 1)
    if len(block) < 2 or len(sizes) <= halvings or halvings > 32:
        raise ValueError("its coding style is cut off")
    total = 0
    for resolution, size in enumerate(sizes):
        counts = [tile.components]
        for side, exponent, precinct in zip((tile.width, tile.height), block, (size, size >> 4)):
            # Of all resolutions but the first there are bands, of half the size.
            limit = max((precinct & 15) - (resolution > 0), 0)
            pixels = 2 ** (halvings - resolution + min((exponent & 15) + 2, limit))
            counts.append(-(-side // pixels))
        total += math.prod(counts)
    return total
