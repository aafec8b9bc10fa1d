"""Folders laid out as Pascal VOC's, checked before Detectron2 reads them."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from xml.etree import ElementTree

import numpy as np
from detectron2.utils.file_io import PathManager

from .errors import DataError, listed, wrong_entry
from .fields import is_side, leads_out

_LAYOUT = "a Pascal VOC folder has Annotations/, JPEGImages/ and ImageSets/Main/SPLIT.txt"
_SIZE = ("size/width", "size/height")
_BOX = tuple(f"bndbox/{x}" for x in ("xmin", "ymin", "xmax", "ymax"))
_MOST_CHARACTERS = 2**24  # of the annotations of one image; that is some 50,000 objects


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
        name for image in _images(folder, split) for name in _names(folder, split, image, known)
    }


def _images(folder: str, split: str) -> Iterator[str]:
    file = voc_list(folder, split)
    if not PathManager.isfile(file):
        raise DataError(f"{file} is not a file: {_LAYOUT}")
    try:
        with PathManager.open(file) as lines, warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about an empty list
            names = np.loadtxt(lines, dtype=str, ndmin=2)  # as Detectron2 does
    except ValueError:
        names = np.empty((0, 0), str)
    # Detectron2 takes a single line for no list.
    if len(names) < 2 or names.shape[1] > 1:
        raise DataError(
            f"{file} must name two images or more, each on a line of its own without anything else"
        )
    for index, image in enumerate(names[:, 0]):
        if leads_out(image):
            raise wrong_entry(
                f"{file}: image {index}", "name", image, "the name of a file in JPEGImages/"
            )
        yield image


def _names(folder: str, split: str, image: str, known: Sequence[str] | None) -> Iterator[str]:
    """Gives the class of each object of an image."""
    picture = os.path.join(folder, "JPEGImages", f"{image}.jpg")
    file = os.path.join(folder, "Annotations", f"{image}.xml")
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
        yield name


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
