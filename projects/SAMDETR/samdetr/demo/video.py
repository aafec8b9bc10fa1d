"""Videos and cameras, by OpenCV, which has its channels in the order BGR."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from PIL import Image

from ..inputs import InputError

CODECS = {".avi": "MJPG"}
CODEC = "mp4v"  # of all other files; every build of OpenCV has it
FRAMES_PER_SECOND = 25.0  # where a camera or file does not say
ESCAPE = 27


class Frames:
    """The frames of a video or camera, once.

    Args:
        source: file, or number of a camera.

    Attributes:
        rate: frames per second.
        count: frames, as the file says; None if it does not, as of a camera.

    Raises:
        InputError: if OpenCV cannot open it, or if a frame has more pixels than Pillow's
            `MAX_IMAGE_PIXELS`.
    """

    def __init__(self, source: Path | int):
        self.name = f"camera {source}" if isinstance(source, int) else str(source)
        if isinstance(source, Path) and not source.is_file():  # OpenCV would wait for a pipe
            raise InputError(f"{source} is not a file")
        self._capture = cv2.VideoCapture(source if isinstance(source, int) else str(source))
        if not self._capture.isOpened():
            what = "there is no" if isinstance(source, int) else "OpenCV reads no video in"
            raise InputError(f"{what} {self.name}")
        self._check_pixels()
        self.rate: float = self._capture.get(cv2.CAP_PROP_FPS) or FRAMES_PER_SECOND
        count = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.count = count if count > 0 else None

    def _check_pixels(self) -> None:
        sides = cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT
        width, height = (int(self._capture.get(x)) for x in sides)
        limit = Image.MAX_IMAGE_PIXELS
        if limit is not None and width * height > limit:
            raise InputError(
                f"{self.name} has {width} x {height} pixels, and PIL.Image.MAX_IMAGE_PIXELS is "
                f"{limit}"
            )

    def __iter__(self) -> Iterator[np.ndarray]:
        """(H, W, 3) uint8 RGB; the camera or file is given back at the end."""
        try:
            while True:
                there, frame = self._capture.read()
                if not there:
                    return
                yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        finally:
            self._capture.release()


class Sink(Protocol):
    """Where drawn frames go."""

    def add(self, frame: np.ndarray) -> bool:
        """Take a frame, (H, W, 3) uint8 RGB; False if no other is wanted."""

    def close(self) -> None:
        """There are no more."""


class Movie:
    """A video file that is made frame by frame, all of the size of the first.

    Args:
        path: whose suffix says the format.
        rate: frames per second.
    """

    def __init__(self, path: Path, rate: float):
        self.path = path
        self.rate = rate
        self._writer: cv2.VideoWriter | None = None

    def add(self, frame: np.ndarray) -> bool:
        """Append a frame; as in `Sink`.

        Raises:
            InputError: if OpenCV cannot write such a file.
        """
        if self._writer is None:
            height, width = frame.shape[:2]
            codec = cv2.VideoWriter.fourcc(*CODECS.get(self.path.suffix.lower(), CODEC))
            self._writer = cv2.VideoWriter(str(self.path), codec, self.rate, (width, height))
            if not self._writer.isOpened():
                raise InputError(f"OpenCV cannot write a video to {self.path}")
        self._writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        return True

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.release()


class Window:
    """A window on the screen.

    Raises:
        InputError: if this OpenCV has none.
    """

    TITLE = "samdetr"

    def __init__(self) -> None:
        try:
            cv2.namedWindow(self.TITLE, cv2.WINDOW_NORMAL)
        except cv2.error as error:
            raise InputError(
                "OpenCV has no windows here (opencv-python-headless has none anywhere): write to "
                "a file by --output"
            ) from error

    def add(self, frame: np.ndarray) -> bool:
        """Show a frame; as in `Sink`, no other is wanted once Escape was pressed."""
        cv2.imshow(self.TITLE, cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        return cv2.waitKey(1) & 0xFF != ESCAPE

    def close(self) -> None:
        cv2.destroyWindow(self.TITLE)
