"""Folders laid out as Pascal VOC's, checked before Detectron2 reads them."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from xml.etree import ElementTree

from detectron2.utils.file_io import PathManager

from .errors import DataError, listed, wrong_entry
from .fields import is_side, leads_out

_LAYOUT = "a Pascal VOC folder has Annotations/, JPEGImages/ and ImageSets/Main/SPLIT.txt"
_SIZE = ("size/width", "size/height")
_BOX = tuple(f"bndbox/{x}" for x in ("xmin", "ymin", "xmax", "ymax"))
_MOST_CHARACTERS = 2**24  # of the annotations of one image; that is some 50,000 objects
_LONGEST_NAME = 255  # of a file. Detectron2's reader pads every line to the longest


def voc_list(folder: str, split: str) -> str:
    """The file that lists the images of a split."""
    return os.path.join(folder, "ImageSets", "Main", f"{split}.txt")


def voc_classes(folder: str, split: str, known: Sequence[str] | None = None) -> set[str]:
    """Checks what the images of a split have, and returns the names of the classes that occur.

    Args:
        known: the only classes that may occur; None for any.

    Raises:
        DataError: names the file, the object and what would be right.
    """
    return {
        entry.findtext("name", "")
        for image in _images(folder, split)
        for entry in _objects(folder, split, image, known)
    }


def voc_truth(folder: str, split: str, known: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """By image what is to be found in it: `name`, `bbox` and `difficult`, as the evaluator has it.

    Boxes are x, y, x, y in pixels counted from 1. An object that does not say if it is difficult is
    not: many annotation tools leave it out.

    Args:
        known: as in `voc_classes`.

    Raises:
        DataError: as `voc_classes`, and if `difficult` is neither 0 nor 1.
    """
    return {
        image: [
            _target(entry, f"{_annotations(folder, image)}: object[{index}]")
            for index, entry in enumerate(_objects(folder, split, image, known))
        ]
        for image in _images(folder, split)
    }


def _target(entry: ElementTree.Element, what: str) -> dict[str, Any]:
    difficult = (entry.findtext("difficult") or "0").strip()
    if difficult not in ("0", "1"):
        raise wrong_entry(what, "difficult", difficult, "0 or 1")
    box = [float(entry.findtext(side, "")) for side in _BOX]
    return {"name": entry.findtext("name"), "bbox": box, "difficult": int(difficult)}


def _images(folder: str, split: str) -> list[str]:
    file = voc_list(folder, split)
    if not PathManager.isfile(file):
        raise DataError(f"{file} is not a file: {_LAYOUT}")
    try:
        with PathManager.open(file) as stream:
            lines = [line.split() for line in stream]
    except ValueError:  # of its encoding
        lines = []
    # Detectron2 takes a single line for no list.
    if sum(map(bool, lines)) < 2 or max(map(len, lines)) > 1:
        raise DataError(
            f"{file} must name two images or more, each on a line of its own without anything else"
        )
    images: dict[str, None] = {}
    for number, (image,) in ((x, line) for x, line in enumerate(lines, 1) if line):
        # Detectron2 would take what follows a # for a comment.
        if len(image) > _LONGEST_NAME or "#" in image or leads_out(image):
            wanted = f"the name of a file in JPEGImages/, of up to {_LONGEST_NAME} characters"
            raise wrong_entry(f"{file}: line {number}", "name", image, wanted)
        if image in images:
            raise wrong_entry(f"{file}: line {number}", "name", image, "one that no other line has")
        images[image] = None
    return list(images)


def _annotations(folder: str, image: str) -> str:
    return os.path.join(folder, "Annotations", f"{image}.xml")


def _objects(
    folder: str, split: str, image: str, known: Sequence[str] | None
) -> Iterator[ElementTree.Element]:
    """The objects of an image, which have all that Detectron2 reads of them."""
    picture = os.path.join(folder, "JPEGImages", f"{image}.jpg")
    file = _annotations(folder, image)
    for path in (picture, file):
        if not PathManager.isfile(path):
            raise DataError(f"{path} is not a file, and {voc_list(folder, split)} lists {image}")
    root = _read(file)
    _check_numbers(root, _SIZE, _side, "a whole number of pixels", f"{file}: the annotation")
    for index, entry in enumerate(root.findall("object")):
        _check_numbers(entry, _BOX, float, "a number", f"{file}: object[{index}]")
        name = entry.findtext("name") or ""
        if not name or known is not None and name not in known:
            expected = "text" if known is None else f"one of {listed(known)}"
            raise wrong_entry(f"{file}: object[{index}]", "name", name, expected)
        yield entry


def _read(file: str) -> ElementTree.Element:
    """The annotations of an image, without anything that a parser would expand or fetch."""
    try:
        with PathManager.open(file) as stream:
            text = stream.read(_MOST_CHARACTERS + 1)
        if len(text) > _MOST_CHARACTERS:
            raise DataError(f"{file} has more than {_MOST_CHARACTERS} characters")
        if "<!DOCTYPE" in text or "<!ENTITY" in text:
            raise DataError(f"{file} declares a DOCTYPE or an ENTITY, which are not read")
        root = ElementTree.parse(io.StringIO(text)).getroot()
    except DataError:
        raise
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # or of its encoding
        raise DataError(f"{file} is not an XML file: {error}") from error
    return root


def _side(text: str) -> int:
    number = int(text)
    if not is_side(number):
        raise ValueError
    return number


def _check_numbers(
    entry: ElementTree.Element,
    paths: Sequence[str],
    number: Callable[[str], float],
    wanted: str,
    what: str,
) -> None:
    for path in paths:
        text = entry.findtext(path)
        try:
            number(text)  # type: ignore[arg-type]  # None is among what it refuses
        except (TypeError, ValueError) as error:
            raise wrong_entry(what, path, text, wanted) from error
