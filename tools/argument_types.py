"""Argument types of the tools' command lines, for argparse's `type=`."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Callable


def integer(least: int) -> Callable[[str], int]:
    """Return a parser of integers that are at least `least`."""

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise ArgumentTypeError(f"{text!r} must be an integer, {least} or more")
        return int(text)

    return parse


def image_size(least: int) -> Callable[[str], tuple[int, int]]:
    """Return a parser of (height, width) from text such as "800x1066", each at least `least`."""

    def parse(text: str) -> tuple[int, int]:
        sides = text.split("x")
        if len(sides) != 2 or not all(x.isdecimal() and int(x) >= least for x in sides):
            raise ArgumentTypeError(
                f"{text!r} must be HEIGHTxWIDTH, such as 800x1066, at least {least} pixels each"
            )
        return int(sides[0]), int(sides[1])

    return parse
